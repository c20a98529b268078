"""Replaces `sglang serve` and `trtllm-serve serve`: parses the command line with the engine's own option table,
rejects what the engine would reject, and runs the simulated engine in that dialect.

FAKE_ENGINE_ARGS: more arguments for the simulated engine. FAKE_ENGINE_EATS: the path of a file; once it exists, this
process allocates memory until the kernel kills it.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from berth.sim.main import main as simulate

TABLES = Path("/opt/fake-engines")
DIALECTS = {"sglang": "sglang", "trtllm-serve": "trtllm"}
TYPES = {"int": int, "float": float, "human_readable_int": int}
BITE_BYTES = 128 << 20  # in small ones the kernel first drops every program's text, and nothing runs any more
PAGE_BYTES = 4096


def parser(dialect: str) -> argparse.ArgumentParser:
    """Exits with 2 for an option that the engine does not have, as the engine does."""
    made = argparse.ArgumentParser(prog=f"{dialect} serve", allow_abbrev=False)
    for option in json.loads((TABLES / f"{dialect}.json").read_text()):
        if not option["flags"]:
            made.add_argument(option["dest"])
        elif option["nargs"] == 0:
            made.add_argument(*option["flags"], dest=option["dest"], action="store_true")
        else:
            made.add_argument(*option["flags"], **_with_value(option))
    return made


def _with_value(option: dict[str, Any]) -> dict[str, Any]:
    kept = {name: option[name] for name in ("dest", "nargs", "choices", "required")}
    return {**kept, "type": TYPES.get(option["type"] or "", str)}


def options_of(dialect: str, argv: Sequence[str]) -> argparse.Namespace:
    """With what the options' file says: SGLang puts its in front of the command line."""
    given = parser(dialect).parse_args(argv)
    if not given.config:
        return given
    document = yaml.safe_load(Path(given.config).read_text())
    if dialect == "trtllm":
        refuse_unknown(document, json.loads((TABLES / "trtllm_options.json").read_text()))
        return given
    flags = [word for name, value in document.items() for word in (f"--{name}", str(value))]
    return parser(dialect).parse_args([*flags, *argv])


def refuse_unknown(document: dict[str, Any], known: dict[str, Any], place: str = "") -> None:
    """TensorRT-LLM's models of its options forbid extras."""
    for name, value in document.items():
        if name not in known:
            sys.exit(f"pydantic_core._pydantic_core.ValidationError: {place}{name}: Extra inputs are not permitted")
        if isinstance(value, dict):
            refuse_unknown(value, known[name], f"{place}{name}.")


def simulation(dialect: str, options: argparse.Namespace) -> list[str]:
    """The command line of the simulated engine."""
    if dialect == "trtllm":  # it has no name but the last part of its model's path
        name, context, key, task = Path(options.model).name, options.max_seq_len, None, "generate"
    else:
        name, context, key = options.served_model_name, options.context_length, options.api_key
        task = "embed" if options.is_embedding else "generate"
    argv = ["--dialect", dialect, "--host", options.host, "--port", str(options.port)]
    argv += ["--served-model-name", name, "--task", task]
    argv += ["--context", str(context)] if context else []
    argv += ["--api-key", key] if key else []
    return argv + os.environ.get("FAKE_ENGINE_ARGS", "").split()


def eat_when_told(path: Path) -> None:
    while not path.exists():
        time.sleep(0.1)
    Path("/proc/self/oom_score_adj").write_text("1000")  # the kernel's first choice, whoever asks for the last page
    eaten, bite = [], BITE_BYTES
    while True:
        try:
            eaten.append(bytearray(bite))
        except MemoryError:  # refused at once, instead of killed for it later
            bite = max(bite // 2, PAGE_BYTES)
            continue
        eaten[-1][::PAGE_BYTES] = b"." * (bite // PAGE_BYTES)  # memory counts when it is written to


def main() -> int:
    dialect = DIALECTS[Path(sys.argv[0]).name]
    if sys.argv[1:2] != ["serve"]:
        sys.exit(f"{dialect}: 'serve' is expected, not {sys.argv[1:2]}")
    options = options_of(dialect, sys.argv[2:])
    if path := os.environ.get("FAKE_ENGINE_EATS"):
        threading.Thread(target=eat_when_told, args=[Path(path)], daemon=True).start()
    return simulate(simulation(dialect, options))


if __name__ == "__main__":
    sys.exit(main())
