"""Makes tiny models with random weights whose layers cache in different ways. Run by the Python of an engine that has
transformers: layer_kinds.py TINY_MODEL FOLDER. The tokenizer is that of the tiny model.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
# The states of gated delta nets: vLLM on the CPU has float32 where the processor computes with bfloat16,
# and else the type of the weights, as the planner takes it where a config.json says nothing (vllm/platforms/cpu.py).
STATES = {"mamba_ssm_dtype": "float32"} if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else {}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding": (
        "gemma3_text",
        {
            "num_hidden_layers": 6,
            "head_dim": 32,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        },
    ),
    "recurrent": (
        "granitemoehybrid",
        {
            "num_hidden_layers": 4,
            "shared_intermediate_size": 128,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_expand": 2,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
        },
    ),
    "gated-delta": (
        "qwen3_next",
        {
            "num_hidden_layers": 4,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
            "head_dim": 32,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            **STATES,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "experts": (
        "qwen3_moe",
        {
            "num_hidden_layers": 2,
            "moe_intermediate_size": 64,
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
}


def main(tiny_model: Path, folder: Path) -> None:
    vocab_size = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    for name, (model_type, fields) in MODELS.items():
        config = AutoConfig.for_model(model_type, vocab_size=vocab_size, **COMMON, **fields)
        # vLLM's gated delta layers on the CPU run in no other type.
        dtype = torch.bfloat16 if name == "gated-delta" else torch.float32
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder / name)
        for file in tiny_model.glob("*token*"):
            shutil.copy(file, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
