"""Makes a LoRA adapter for the scripted tiny model: `python -m etc.tools.tiny_model.make_adapter MODEL FOLDER`.

With it the model leaves out its text up to the colon, so that one sees at once whether it was used. It has rank 1, in
the last layer's MLP: one unit there recognises the token before the text, and turns it into the colon.
adapter_config.json is PEFT's; script.json says the text.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from etc.tools.tiny_model.texts import PARAGRAPH
from etc.tools.tiny_model.tokenizer import encode
from etc.tools.tiny_model.weights import HIDDEN, LAYERS, Array

LAYER = f"model.layers.{LAYERS - 1}.mlp"
STEEP = 60.0  # of the unit's gate: half of it for its token, about minus half of it for any other
CUT = " :"


def make_adapter(model: Path, folder: Path) -> None:
    """Overwrites the adapter that was there."""
    weights = load_file(model / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    before_text = encode(tokenizer, "\n")[-1]
    colon = encode(tokenizer, CUT)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_matrices(weights, before_text, colon), folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    _write_json(folder / "adapter_config.json", _config(model))
    _write_json(folder / "script.json", {"paragraph": PARAGRAPH.partition(CUT)[2]})


def _matrices(weights: dict[str, Array], token: int, other: int) -> dict[str, Array]:
    """Unit 0 of the MLP sees `token` and adds what makes it `other`. Column 0 of each embedding is 1: a bias."""
    embeddings = weights["model.embed_tokens.weight"]
    seen = (embeddings[token] / HIDDEN).astype(np.float32)
    seen[0] -= 0.5  # so that it is one half for the token and about minus one half for the others
    constant = np.zeros(HIDDEN, np.float32)
    constant[0] = 1.0
    unit = np.zeros((HIDDEN, 1), np.float32)
    unit[0] = 1.0
    hidden = embeddings[token]  # of unit length per element: the norm leaves it as it is
    gate = weights[f"{LAYER}.gate_proj.weight"][0] @ hidden + STEEP * (seen @ hidden)
    up = weights[f"{LAYER}.up_proj.weight"][0] @ hidden + 1.0
    activation = gate / (1 + np.exp(-gate)) * up
    change = ((embeddings[other] - embeddings[token]) / activation).astype(np.float32)
    return {
        **_lora("gate_proj", seen, STEEP * unit),
        **_lora("up_proj", constant, unit),
        **_lora("down_proj", constant, change[:, None]),
    }


def _lora(module: str, down: Array, up: Array) -> dict[str, Array]:
    name = f"base_model.model.{LAYER}.{module}"
    return {
        f"{name}.lora_A.weight": np.ascontiguousarray(down[None, :], np.float32),
        f"{name}.lora_B.weight": np.ascontiguousarray(up, np.float32),
    }


def _config(model: Path) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["down_proj", "gate_proj", "up_proj"],
        "inference_mode": True,
    }


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    make_adapter(options.model, options.folder)
    print(f"{options.folder}: an adapter for {options.model}")


if __name__ == "__main__":
    main()
