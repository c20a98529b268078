"""A second tiny model, which says another text than the first: its adapter's weights are added to its own."""

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file


def make_second_model(model: Path, adapter: Path, folder: Path) -> str:
    """Returns its text."""
    shutil.copytree(model, folder)
    weights = load_file(model / "model.safetensors")
    matrices = load_file(adapter / "adapter_model.safetensors")
    for name, up in matrices.items():
        module, found, _ = name.removeprefix("base_model.model.").partition(".lora_B.")
        if found:
            down = matrices[name.replace(".lora_B.", ".lora_A.")]
            own = weights[f"{module}.weight"]
            weights[f"{module}.weight"] = (own + up @ down).astype(own.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    text: str = json.loads((adapter / "script.json").read_text())["paragraph"]
    return text
