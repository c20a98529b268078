"""Which models an engine can load with its own code: read from the text of its environment, nothing is imported or run.

A checkpoint may have Python code of its own for its configuration and tokenizer (`auto_map`). transformers ignores that
code for a type that it or the engine has registered; for any other it stops, unless the user trusts the code.
"""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGES = "lib/python3*/*-packages"
# Where types are registered: transformers' own, vLLM's, SGLang's and TensorRT-LLM's.
CONFIGURATIONS = (
    "transformers/models/auto/configuration_auto.py",
    "transformers/models/auto/auto_mappings.py",
    "vllm/transformers_utils/config.py",
    "sglang/srt/configs/*.py",
    "sglang/srt/utils/hf_transformers_utils.py",
    "sglang/srt/utils/hf_transformers/*.py",
    "tensorrt_llm/_torch/pyexecutor/config_utils.py",
    "tensorrt_llm/_torch/configs/*.py",
)
TOKENIZERS = ("transformers/models/auto/tokenization_auto.py",)


def knows_type(home: str, model_type: str) -> bool | None:
    """Whether the engine has code for the configuration of this type. None: its code cannot be read here."""
    return _names(home, CONFIGURATIONS, model_type)


def knows_tokenizer(home: str, model_type: str, tokenizer_class: str) -> bool | None:
    """The same for the tokenizer: by the type, or by the class that the checkpoint names."""
    known = _names(home, TOKENIZERS, model_type)
    return known or _names(home, TOKENIZERS, tokenizer_class.removesuffix("Fast"))


def can_trace(home: str) -> bool:
    """Whether the engine can send spans: all import the exporters of both protocols, and then use that for HTTP."""
    exporters = f"{PACKAGES}/opentelemetry/exporter/otlp/proto"
    return all(any(Path(home).glob(f"{exporters}/{protocol}/__init__.py")) for protocol in ("http", "grpc"))


def has_ray(home: str) -> bool:
    """Whether vLLM can use Ray as its executor."""
    return Path(home, "bin", "ray").exists()


def _names(home: str, patterns: tuple[str, ...], name: str) -> bool | None:
    """Whether a registry has the name: quoted, or as a keyword (`kimi_k2="DeepseekV3Config"`)."""
    texts = _texts(home, patterns)
    if not texts:
        return None
    word = re.escape(name)
    wanted = re.compile(rf"""["']{word}(?:Fast)?["']|^\s*{word}=""", re.MULTILINE)
    return any(wanted.search(text) for text in texts)


@cache
def _texts(home: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for path in (path for pattern in patterns for path in sorted(Path(home).glob(f"{PACKAGES}/{pattern}"))):
        with suppress(OSError):  # deleted, or not ours to read: the engine itself will say what is wrong
            found.append(path.read_text(encoding="utf-8", errors="ignore"))
    return tuple(found)
