"""Embedding responses, with vectors in the requested format whatever the engine sent: lists of floats, or base64."""

import base64
import re
import struct
from typing import Final

import orjson

from berth.canonical import EngineResponse, InferenceRequest, Json, Usage
from berth.dialects.choices import plausible, read_usage

FLOAT_BYTES = 4
_FLOATS: Final = b'"embedding":['
_BASE64: Final = b'"embedding":"'
_USAGE_OBJECT: Final = re.compile(rb'"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def read_unparsed(request: InferenceRequest, model: str, body: bytes) -> EngineResponse | None:
    """The response as it is if a look at its bytes shows the right model name and format, since vectors are long and
    slow to parse. None: it must be parsed.
    """
    expected, other = (_BASE64, _FLOATS) if _wants_base64(request) else (_FLOATS, _BASE64)
    is_object = body.startswith(b"{") and body.endswith(b"}")
    if not (is_object and b'"model":' + orjson.dumps(model) in body and expected in body and other not in body):
        return None
    found = _USAGE_OBJECT.search(body)
    try:
        usage = read_usage(orjson.loads(found[1])) if found else Usage()
    except orjson.JSONDecodeError:
        return EngineResponse(body=body)
    return None if usage.implausible else EngineResponse(body=body, usage=usage)


def read_embeddings(request: InferenceRequest, model: str, document: Json, body: bytes) -> EngineResponse:
    """ValueError, TypeError, KeyError or struct.error for what is not a vector."""
    as_base64 = _wants_base64(request)
    data = []
    for item in document["data"]:
        vector = item["embedding"]
        if isinstance(vector, list) and as_base64:
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        elif isinstance(vector, str) and not as_base64:
            packed = base64.b64decode(vector, validate=True)
            vector = list(struct.unpack(f"<{len(packed) // FLOAT_BYTES}f", packed))
        data.append({**item, "embedding": vector})
    usage = read_usage(document.get("usage") or {})
    if data == document["data"] and document.get("model") == model and not usage.implausible:
        return EngineResponse(body=body, usage=usage)
    if usage.implausible:
        document = {**document, "usage": plausible(document["usage"])}
    return EngineResponse(body=orjson.dumps({**document, "data": data, "model": model}), usage=usage)


def _wants_base64(request: InferenceRequest) -> bool:
    return request.body.get("encoding_format") == "base64"
