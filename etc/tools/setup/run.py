"""`make run`: chooses what nobody has said, installs what that needs, and starts the appliance in the foreground."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from berth.boot.config import checkout
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import load
from berth.errors import ConfigError
from berth.plan import EngineName
from etc.tools.setup.engines import has_gpu, install_vllm
from etc.tools.setup.foreground import run_in_foreground
from etc.tools.setup.progress import SetupError, say
from etc.tools.tiny_model.make_tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[3]
GPU_MODEL = "Qwen/Qwen3-0.6B@vllm"
OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR", "SETUP_STARTED")


def with_defaults(environ: Mapping[str, str], root: Path, *, gpu: bool) -> dict[str, str]:
    """The environment of an appliance that runs from a clone: everything lies within it, by port."""
    defaults = checkout.within(root, environ)
    if not environ.get("BERTH_MODELS") and not environ.get("BERTH_MODELS_FILE"):
        defaults["BERTH_MODELS"] = GPU_MODEL if gpu else tiny_model_text(tiny_model(root))
    given = {name: value for name, value in environ.items() if name not in OF_MAKE}
    return given | {name: value for name, value in defaults.items() if not given.get(name)}


def tiny_model(root: Path) -> Path:
    return root / "models/tiny"


def tiny_model_text(folder: Path) -> str:
    """As BERTH_MODELS; in YAML, of which JSON is a part, where the short form cannot hold the path."""
    plain = all(character.isalnum() or character in "/._-+" for character in str(folder))
    return f"tiny={folder}@vllm" if plain else json.dumps({"tiny": {"source": str(folder), "engines": ["vllm"]}})


def models_of(environ: Mapping[str, str]) -> tuple[ModelSpec, ...]:
    """Empty where the configuration is wrong: boot says what is wrong with it, we need not."""
    try:
        return load(environ).models
    except ConfigError:
        return ()


def needs_vllm(models: tuple[ModelSpec, ...]) -> bool:
    """Named, or nothing named: of all engines, vLLM is the one that a clone can install."""
    return any(not model.engines or EngineName.VLLM in {entry.engine for entry in model.engines} for model in models)


def prepare(environ: Mapping[str, str], root: Path, *, gpu: bool) -> None:
    """Installs and makes what these models need; nothing when it is all there."""
    if (outside := Path(environ["BERTH_RUN_DIR"]).parent).name == checkout.private_name():
        _make_private(outside)
    models = models_of(environ)
    if needs_vllm(models):
        install_vllm(Path(environ["BERTH_ENGINE_HOME"]).absolute(), gpu=gpu)
    folder = tiny_model(root)
    if any(model.source == str(folder) for model in models) and not (folder / "script.json").exists():
        say(f"tiny model: making it in {folder} (5 MB) ...")
        make_tiny_model(folder)


def _make_private(folder: Path) -> None:
    """SetupError for a folder that somebody else owns: below /tmp anybody could have made it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SetupError(f"{folder} belongs to somebody else. Name another: make run BERTH_RUN_DIR=/path")


def status_command(environ: Mapping[str, str]) -> str:
    """What to type in the clone: with the variables that say which appliance is meant."""
    given = [f"{name}={shlex.quote(environ[name])} " for name in ("BERTH_PORT", "BERTH_RUN_DIR") if environ.get(name)]
    return f"{''.join(given)}.venv/bin/berth status"


def main() -> int:
    gpu = has_gpu()
    environ = with_defaults(os.environ, ROOT, gpu=gpu)
    try:
        prepare(environ, ROOT, gpu=gpu)
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    shown = environ.get("BERTH_MODELS") or environ["BERTH_MODELS_FILE"]
    say(f"Berth: starting with {shown}; Ctrl-C ends it. How it is, from another terminal:")
    say(f"  {status_command(os.environ)}")
    return run_in_foreground([sys.executable, "-m", "berth", "boot"], environ)


if __name__ == "__main__":
    sys.exit(main())
