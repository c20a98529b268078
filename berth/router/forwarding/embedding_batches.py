"""Embeddings of more inputs than a server takes in one request: it is asked part by part, and all of it is one answer.

vLLM and SGLang take any number. Others do not, such as Text Embeddings Inference (32 unless told otherwise): `batch` of
an attached engine in BERTH_MODELS says how many.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, Usage


def parts(request: InferenceRequest, most: int | None) -> Sequence[InferenceRequest]:
    """The request as several that have `most` inputs at most, in order; itself where it has no more. None: no limit."""
    inputs: Any = request.body.get("input")
    if most is None or request.operation is not Operation.EMBEDDING or not _several(inputs) or len(inputs) <= most:
        return (request,)
    starts = range(0, len(inputs), most)
    return [replace(request, body={**request.body, "input": inputs[start : start + most]}) for start in starts]


def joined(answers: Sequence[EngineResponse]) -> EngineResponse:
    """One answer of those to all parts. KeyError or TypeError for one that is none."""
    if len(answers) == 1:
        return answers[0]
    documents: list[Json] = [orjson.loads(answer.body) for answer in answers]
    rows = [row for document in documents for row in sorted(document["data"], key=lambda row: row["index"])]
    usage = Usage(
        prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
        cached_tokens=sum(answer.usage.cached_tokens for answer in answers),
    )
    whole = {
        **documents[0],
        "data": [{**row, "index": index} for index, row in enumerate(rows)],
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens + usage.completion_tokens},
    }
    return EngineResponse(body=orjson.dumps(whole), usage=usage)


def _several(inputs: Any) -> bool:
    """A list of texts or of token lists; one prompt may be a list of tokens too."""
    return isinstance(inputs, list) and not all(isinstance(one, int) for one in inputs)
