"""vLLM's POST /score and /classify, with and without /v1: scores for pairs of texts, and classification of texts."""

import secrets
import time
from typing import Any, Final

from berth import json_text
from berth.apis.base import NO_HEADERS, Headers
from berth.apis.model_header import model_name
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, check_fields, integer, read_object
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

TEXTS: Final = Rule(
    holds=lambda value: isinstance(value, str) or (isinstance(value, list) and set(map(type, value)) == {str}),
    expected="a string or a non-empty list of strings",
)
TRUNCATION: Final[dict[str, Rule]] = {
    "instruction": TEXT,
    "max_tokens_per_doc": integer(0),
    "max_tokens_per_query": integer(0),
    "model": TEXT,
    "truncate_prompt_tokens": integer(-1),
    "use_activation": BOOLEAN,
    "user": TEXT,
}
_PAIRS: Final = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
SCORE: Final = {**TRUNCATION, **{name: TEXTS for pair in _PAIRS for name in pair}}
CLASSIFY: Final = {**TRUNCATION, "input": TEXTS}
_FORWARDED: Final = ("instruction", "max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens")


class Score(OpenaiEndpoint):
    operation = Operation.SCORE

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        named = (pair for pair in _PAIRS if all(document.get(name) is not None for name in pair))
        first, second = next(named, _PAIRS[0])
        check_fields(document, SCORE, required=(first, second))
        ones, others = document[first], document[second]
        if isinstance(ones, list) and len(ones) > 1 and (isinstance(others, str) or len(ones) != len(others)):
            raise InvalidRequestError(
                f"{first!r} must hold one text, or as many as {second!r}, not {len(ones)}.", param=first
            )
        return request_of(Operation.SCORE, document, headers, {"text_1": ones, "text_2": others})

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        canonical = json_text.loads(body)
        data = [{"index": item["index"], "object": "score", "score": item["score"]} for item in canonical["data"]]
        return json_text.dumps({**_head("score", request), "data": data, "usage": _usage(canonical)})


class Classify(OpenaiEndpoint):
    operation = Operation.CLASSIFY

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, CLASSIFY, required=("input",))
        return request_of(Operation.CLASSIFY, document, headers, {"input": document["input"]})

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        canonical = json_text.loads(body)
        data = [{**item, "num_classes": len(item["probs"])} for item in canonical["data"]]
        return json_text.dumps({**_head("classify", request), "data": data, "usage": _usage(canonical)})


def request_of(operation: Operation, document: Json, headers: Headers, fields: Json) -> InferenceRequest:
    """Adds to `fields` the client's settings for truncation and the like."""
    settings = {name: document[name] for name in _FORWARDED if document.get(name)}
    if document.get("use_activation") is False:
        settings["use_activation"] = False
    name = model_name(document, headers)
    ignored = ("user",) if document.get("user") else ()
    return InferenceRequest(
        operation=operation, model=name, body={**fields, **settings, "model": name}, ignored=ignored
    )


def _head(kind: str, request: InferenceRequest) -> Json:
    response_id = f"{kind}-{secrets.token_hex(8)}"
    return {"id": response_id, "object": "list", "created": int(time.time()), "model": request.model}


def _usage(canonical: Json) -> Json:
    usage: dict[str, Any] = canonical["usage"]
    return {**usage, "completion_tokens": 0, "prompt_tokens_details": None}
