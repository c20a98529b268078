"""Which files of a model's repository an engine reads, and which of them a folder lacks. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from berth.boot.checkpoints.metadata import CONFIG, shards, weight_files

ADAPTER_CONFIG = "adapter_config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
MOST_NAMED = 20

_WEIGHTS = "model.safetensors, or model.safetensors.index.json with what it names"
_OTHER_TOKENIZERS = re.compile(r"[^/]*\.(model|tiktoken)|vocab\.[^/]*")
_FOLDERS = re.compile(
    r"(.*/)?(\.[^/]+|original|onnx|openvino|coreml|metal|gguf|flax|tf|runs|checkpoint-\d+|global_step\d+)/"
)
# Other programs' weights, pictures, and what a training leaves behind.
_UNREAD = re.compile(
    r".*\.(gguf|onnx|onnx_data|h5|msgpack|ot|tflite|mlmodel|nemo|llamafile"
    r"|png|jpe?g|gif|webp|svg|mp4|mov|webm|avi|mp3|wav|flac|ogg|pdf)"
    r"|(.*/)?(\.[^/]+|training_args\.bin|trainer_state\.json|optimizer[^/]*\.(pt|bin)|scheduler\.pt"
    r"|rng_state[^/]*\.pth|events\.out\.tfevents[^/]*)",
    re.IGNORECASE,
)
_COPIES = re.compile(r"(pytorch_model|adapter_model|model|consolidated)[^/]*\.(bin|pt|pth|ckpt)(\.index\.json)?")
_CONSOLIDATED = re.compile(r"consolidated[^/]*\.safetensors(\.index\.json)?")


def needed(names: Iterable[str], *, mistral: bool = False) -> tuple[str, ...]:
    """Of a repository's files those that an engine may read, sorted. Not among them: weights in a second format
    (`mistral`: Mistral's own is wanted too), and files for other programs.
    """
    kept = {name for name in names if not _FOLDERS.match(name) and not _UNREAD.fullmatch(name)}
    doubled = {_folder(name) for name in kept if name.endswith(".safetensors")}
    wanted = {name for name in kept if not (_folder(name) in doubled and _COPIES.fullmatch(_base(name)))}
    chosen = weight_files(dict.fromkeys(wanted))
    if not mistral and not any(_CONSOLIDATED.fullmatch(name) for name in chosen):
        wanted = {name for name in wanted if not _CONSOLIDATED.fullmatch(name)}
    return tuple(sorted(wanted))


def lacking(names: Collection[str], index: Any, *, mistral: bool = False) -> tuple[str, ...]:
    """What a folder with these files lacks of a model, or of an adapter for one. `index`: the parsed index of the
    weights, None where there is none.
    """
    named = shards(index)
    if named:
        found = sorted(named - set(names))
    elif ADAPTER_CONFIG in names:
        found = [] if any(name.startswith("adapter_model.") for name in names) else ["adapter_model.safetensors"]
    else:
        found = [] if weight_files(dict.fromkeys(names)) else [_WEIGHTS]
    if mistral and not any(_CONSOLIDATED.fullmatch(name) for name in names):
        found.append("consolidated.safetensors")
    return (*_documents_lacking(names), *found)


def _documents_lacking(names: Collection[str]) -> list[str]:
    if ADAPTER_CONFIG in names:
        return []
    config = [] if CONFIG in names else [CONFIG]
    return config if has_tokenizer(names) else [*config, f"a tokenizer ({', '.join(TOKENIZERS)})"]


def has_tokenizer(names: Iterable[str]) -> bool:
    return any(name in TOKENIZERS or _OTHER_TOKENIZERS.fullmatch(name) for name in names)


def listed(names: Sequence[str]) -> str:
    """For people: each by its name; the rest of very many by its number."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]
