"""Embeddings in the form the client asked for, whatever form the engine gave: lists of floats, or base64."""

import base64
import struct
from typing import Any

FLOAT_BYTES = 4
_FLOATS = b'"embedding":['
_BASE64 = b'"embedding":"'


def wants_base64(body: dict[str, Any]) -> bool:
    return body.get("encoding_format") == "base64"


def has_form(answer: bytes, *, as_base64: bool) -> bool:
    """A byte test: does the answer hold vectors, all in the form that was asked for?"""
    right, wrong = (_BASE64, _FLOATS) if as_base64 else (_FLOATS, _BASE64)
    return right in answer and wrong not in answer


def converted(document: dict[str, Any], *, as_base64: bool) -> dict[str, Any]:
    """The answer with every vector in the form asked for. ValueError or struct.error for vectors that are none."""
    data = [{**item, "embedding": _vector(item["embedding"], as_base64=as_base64)} for item in document["data"]]
    return {**document, "data": data}


def _vector(value: Any, *, as_base64: bool) -> Any:
    if isinstance(value, list) and as_base64:
        return base64.b64encode(struct.pack(f"<{len(value)}f", *value)).decode()
    if isinstance(value, str) and not as_base64:
        packed = base64.b64decode(value, validate=True)
        return list(struct.unpack(f"<{len(packed) // FLOAT_BYTES}f", packed))
    return value
