"""Makes a tiny Llama checkpoint, 5 MB, without any download: `python -m etc.tools.tiny_model.make_tiny_model FOLDER`.

`--kind scripted` (the default) says one fixed readable text at any temperature up to 1, calls a tool when tools are
offered, reasons when the chat template is told to (`enable_thinking`), and goes on exactly where a text was cut
(`continue_final_message`). script.json beside the weights holds its texts. `--kind random` talks gibberish.
An engine can also take it for an embedding model.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safetensors.numpy import save_file
from tokenizers import Tokenizer

from etc.tools.tiny_model.successors import successors
from etc.tools.tiny_model.texts import CALL_PIECES, END_OF_TEXT, PARAGRAPH, REASONING, TURN_END
from etc.tools.tiny_model.tokenizer import build_tokenizer, token_id
from etc.tools.tiny_model.weights import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, Array, random_weights, scripted_weights

Kind = Literal["scripted", "random"]
CONTEXT = 4096
SEED = 7
CLOSERS = ('"', "}", "]", "1", "2", "true", ":", ",")  # of JSON: an answer in a grammar closes itself soon


def make_tiny_model(folder: Path, kind: Kind = "scripted", seed: int = SEED) -> None:
    """Writes the whole model or nothing; what lay in the folder before is replaced."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        _write(made, kind, seed)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        made.rename(folder)


def _write(folder: Path, kind: Kind, seed: int) -> None:
    tokenizer = build_tokenizer()
    vocabulary = -(-tokenizer.get_vocab_size() // 64) * 64  # engines like round tables
    save_file(_weights(tokenizer, vocabulary, kind, seed), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copyfile(Path(__file__).with_name("chat_template.jinja"), folder / "chat_template.jinja")
    end, padding = token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "config.json", _config(vocabulary, end, padding))
    _write_json(folder / "generation_config.json", {"eos_token_id": [end], "pad_token_id": padding})
    _write_json(folder / "script.json", _script() if kind == "scripted" else {})
    for file in folder.iterdir():
        file.chmod(0o644)  # save_file leaves it to the owner alone


def _weights(tokenizer: Tokenizer, vocabulary: int, kind: Kind, seed: int) -> dict[str, Array]:
    if kind == "random":
        return random_weights(vocabulary, seed)
    spellings = (spelling for closer in CLOSERS for spelling in (closer, "Ġ" + closer))
    closers = [found for found in map(tokenizer.token_to_id, spellings) if found is not None]
    return scripted_weights(vocabulary, seed, successors(tokenizer), closers)


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }


def _config(vocabulary: int, end: int, padding: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": padding,
        "torch_dtype": "float32",
        "initializer_range": 0.02,
    }


def _script() -> dict[str, str]:
    call = "".join(CALL_PIECES)
    return {"paragraph": PARAGRAPH, "reasoning": REASONING, "tool_call": f"<tool_call>{call}</tool_call>"}


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=["scripted", "random"], default="scripted")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    make_tiny_model(options.folder, options.kind, options.seed)
    size = sum(file.stat().st_size for file in os.scandir(options.folder))
    print(f"{options.folder}: {options.kind}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
