"""Requests of Ollama's clients, and mutations of them."""

import copy
from typing import Any

from hypothesis import strategies as st

from berth.canonical import Json
from tests.apis.ollama.test_messages import PNG

_TOOL: Json = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
_OPTIONS: Json = {
    "temperature": 0.5,
    "num_predict": 7,
    "seed": 1,
    "stop": ["x"],
    "num_ctx": 4096,
    "top_k": 2,
    "min_p": 0,
}
CHATS: list[Json] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "What is it?", "images": [PNG]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1]}}}]},
            {"role": "tool", "content": "7", "tool_name": "f"},
            {"role": "assistant", "content": "It is", "thinking": "hm"},
        ],
        "tools": [_TOOL],
        "options": _OPTIONS,
        "format": {"type": "object"},
        "think": True,
        "stream": False,
        "keep_alive": "5m",
        "logprobs": True,
        "top_logprobs": 2,
    },
    {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "think": "low", "format": "json"},
]
GENERATIONS: list[Json] = [
    {"model": "m", "prompt": "Hi", "system": "s", "images": [PNG], "options": _OPTIONS, "think": False, "context": [1]},
    {"model": "m", "prompt": "Hi", "raw": True, "options": _OPTIONS, "logprobs": True, "top_logprobs": 2},
    {"model": "m", "prompt": "Hi", "suffix": "!", "stream": False, "format": {"type": "object"}},
]
EMBEDDINGS: list[Json] = [
    {"model": "m", "input": ["a", "b"], "dimensions": 7, "truncate": True, "options": {"num_ctx": 7}},
    {"model": "m", "prompt": "a", "keep_alive": 0},
]

_ATOMS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    _ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@st.composite
def mutated(draw: st.DrawFn, document: Json) -> Any:
    """The document with up to three of its values replaced or removed, at any depth."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(_places(made))) if _places(made) else (made, "model")
        if draw(st.booleans()):
            parent[key] = draw(JSON)
        else:
            del parent[key]
    return made


def _places(value: Any) -> list[tuple[Any, Any]]:
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in _places(inner)]
