"""Embeddings of more inputs than a server accepts in one request: several requests, and one response.

vLLM and SGLang accept any number. Others do not, such as Text Embeddings Inference (32 by default): `batch` of an
attached engine in BERTH_MODELS sets the number.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from berth import json_text
from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, Usage
from berth.errors import TooLargeError

_MOST_REPEATED_BYTES: Final = 64 << 20


def parts(request: InferenceRequest, most: int) -> Sequence[InferenceRequest]:
    """Requests with at most `most` inputs each, in order. TooLargeError where what they repeat would be too much."""
    inputs: Any = request.body.get("input")
    several = isinstance(inputs, list) and not all(isinstance(one, int) for one in inputs)  # or it is one of tokens
    if request.operation is not Operation.EMBEDDING or not several or len(inputs) <= most:
        return (request,)
    starts = range(0, len(inputs), most)
    repeated = len(json_text.dumps({name: value for name, value in request.body.items() if name != "input"}))
    if repeated * len(starts) > _MOST_REPEATED_BYTES:
        raise TooLargeError(
            f"This model's server takes {most} inputs at once, so the request would be sent {len(starts)} times, each "
            f"with {repeated} bytes besides its inputs. Send fewer inputs, or shorter fields.",
            param="input",
            should_retry=False,
        )
    return [replace(request, body={**request.body, "input": inputs[start : start + most]}) for start in starts]


def joined(responses: Sequence[EngineResponse]) -> EngineResponse:
    """The responses to all parts as one. KeyError or TypeError if one of them is not a response to embeddings."""
    documents: list[Json] = [json_text.loads(response.body) for response in responses]
    rows = [row for document in documents for row in sorted(document["data"], key=lambda row: row["index"])]
    usage = Usage(
        prompt_tokens=sum(response.usage.prompt_tokens for response in responses),
        completion_tokens=sum(response.usage.completion_tokens for response in responses),
        cached_tokens=sum(response.usage.cached_tokens for response in responses),
        implausible=any(response.usage.implausible for response in responses),
    )
    whole = {
        **documents[0],
        "data": [{**row, "index": index} for index, row in enumerate(rows)],
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens + usage.completion_tokens},
    }
    return EngineResponse(body=json_text.dumps(whole), usage=usage)
