"""The shape of an answer: its keys in order and the types of its values, not the values."""

import json
from typing import Any

_MAPS = ("top_logprobs",)  # objects whose keys are data


def shape(value: Any, key: str = "") -> Any:
    """Comparable with ==; lists count the kinds of their elements, not their number."""
    if isinstance(value, dict):
        if _is_map(value, key):
            return {"<map>": _kinds([*value.values()], key)}
        return [(name, shape(inner, name)) for name, inner in value.items()]
    if isinstance(value, list):
        return ("<list>", ["number"] if key == "bytes" else _kinds(value, key))
    if isinstance(value, bool) or value is None:
        return str(value)
    return "number" if isinstance(value, int | float) else "text"


def body_shape(body: bytes) -> Any:
    """Of a stream the kinds of its frames in order, for each choice; of anything else what `shape` says."""
    if body.startswith((b"data:", b": ")):
        return stream_shape(body)
    try:
        return shape(json.loads(body))
    except ValueError:
        return body.decode("utf-8", "replace")


def stream_shape(body: bytes) -> dict[Any, list[Any]]:
    """Kinds that repeat count once."""
    kinds: dict[Any, list[Any]] = {}
    for frame in filter(None, body.split(b"\n\n")):
        data = frame.removeprefix(b"data: ").strip()
        chunk = data.decode() if data == b"[DONE]" else json.loads(data)
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        seen = kinds.setdefault(choices[0]["index"] if choices else None, [])
        kind = chunk if isinstance(chunk, str) else shape(chunk)
        if seen[-1:] != [kind]:
            seen.append(kind)
    return kinds


def without(value: Any, *ignored: str) -> Any:
    """A shape less the keys named."""
    if isinstance(value, list):
        return [
            (item[0], without(item[1], *ignored))
            if isinstance(item, tuple) and len(item) == 2
            else without(item, *ignored)
            for item in value
            if not (isinstance(item, tuple) and item[0] in ignored)
        ]
    if isinstance(value, dict):
        return {key: without(inner, *ignored) for key, inner in value.items()}
    return (value[0], without(value[1], *ignored)) if isinstance(value, tuple) else value


def _is_map(value: dict[str, Any], key: str) -> bool:
    named = key in _MAPS and all(isinstance(inner, float) for inner in value.values())
    return named or (bool(value) and all(name.isdecimal() for name in value))


def _kinds(values: list[Any], key: str) -> list[Any]:
    kinds: list[Any] = []
    for value in values:
        kind = shape(value, key)
        if kind not in kinds:
            kinds.append(kind)
    return kinds
