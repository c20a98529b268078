"""The hub repositories and files that a model's engines read, and which of them a folder lacks. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from berth.boot.checkpoints.metadata import CONFIG, shards, weight_files
from berth.lora_files import CONFIG as ADAPTER_CONFIG
from berth.plan import EngineName

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
MOST_NAMED = 20
READERS = frozenset({EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM})

_WEIGHTS = "model.safetensors, or model.safetensors.index.json with what it names"
_OTHER_TOKENIZERS = re.compile(r"[^/]*\.(model|tiktoken)|vocab\.[^/]*")
_FOLDERS = re.compile(
    r"(.*/)?(\.[^/]+|original|onnx|openvino|coreml|metal|gguf|flax|tf|runs|checkpoint-\d+|global_step\d+)/"
)
# Other programs' weights, media, and leftovers of training.
_UNREAD = re.compile(
    r".*\.(gguf|onnx|onnx_data|h5|msgpack|ot|tflite|mlmodel|nemo|llamafile"
    r"|png|jpe?g|gif|webp|svg|mp4|mov|webm|avi|mp3|wav|flac|ogg|pdf)"
    r"|(.*/)?(\.[^/]+|training_args\.bin|trainer_state\.json|optimizer[^/]*\.(pt|bin)|scheduler\.pt"
    r"|rng_state[^/]*\.pth|events\.out\.tfevents[^/]*)",
    re.IGNORECASE,
)
_COPIES = re.compile(r"(pytorch_model|adapter_model|model|consolidated)[^/]*\.(bin|pt|pth|ckpt)(\.index\.json)?")
_CONSOLIDATED = re.compile(r"consolidated[^/]*\.safetensors(\.index\.json)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A repository of the hub at one revision."""

    source: str
    revision: str | None = None
    mistral: bool = False  # its engine loads Mistral's own format


def hub_models(
    source: str, revision: str | None, extra_sources: Sequence[str], args: Sequence[str]
) -> tuple[HubModel, ...]:
    """The repositories to download for an engine with these arguments: the model, unless it is a local path, and the
    extra sources. `--load-format mistral` (or `=mistral`, or `--config-format`) selects Mistral's own format.
    """
    pairs = [arg.partition("=")[::2] for arg in args] + list(pairwise(args))
    mistral = any(option.endswith("-format") and value == "mistral" for option, value in pairs)
    first = HubModel(source=source, revision=revision, mistral=mistral)
    models = () if PurePosixPath(source).is_absolute() else (first,)
    return (*models, *(HubModel(source=extra) for extra in extra_sources))


def needed_files(names: Iterable[str], *, mistral: bool = False) -> tuple[str, ...]:
    """The files of a repository that an engine may read, sorted. Without a second copy of the weights in another format
    (unless `mistral`: Mistral's own is needed too), and without files for other programs.
    """
    kept = {name for name in names if not _FOLDERS.match(name) and not _UNREAD.fullmatch(name)}
    with_safetensors = {_folder(name) for name in kept if name.endswith(".safetensors")}
    needed = {
        name for name in kept if _folder(name) not in with_safetensors or not _COPIES.fullmatch(name.rpartition("/")[2])
    }
    chosen = weight_files(dict.fromkeys(needed))
    if not mistral and not any(_CONSOLIDATED.fullmatch(name) for name in chosen):
        needed = {name for name in needed if not _CONSOLIDATED.fullmatch(name)}
    return tuple(sorted(needed))


def missing_files(names: Collection[str], index: Any, *, mistral: bool = False) -> tuple[str, ...]:
    """What a folder with these files lacks of a model, or of an adapter for one. `index`: the parsed index of the
    weights, None if there is none.
    """
    documents, weights = [], []
    is_adapter = ADAPTER_CONFIG in names
    if not is_adapter and CONFIG not in names:
        documents.append(CONFIG)
    if not is_adapter and not has_tokenizer(names):
        documents.append(f"a tokenizer ({', '.join(TOKENIZERS)})")
    if named := shards(index):
        weights = sorted(named - set(names))
    elif is_adapter and not any(name.startswith("adapter_model.") for name in names):
        weights.append("adapter_model.safetensors")
    elif not is_adapter and not weight_files(dict.fromkeys(names)):
        weights.append(_WEIGHTS)
    if mistral and not any(_CONSOLIDATED.fullmatch(name) for name in names):
        weights.append("consolidated.safetensors")
    return (*documents, *weights)


def has_tokenizer(names: Iterable[str]) -> bool:
    return any(name in TOKENIZERS or _OTHER_TOKENIZERS.fullmatch(name) for name in names)


def format_names(names: Sequence[str]) -> str:
    """The names, the rest of a long list as a number."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
