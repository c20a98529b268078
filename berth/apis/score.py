"""vLLM's POST /score and /classify, with and without /v1: two texts compared, and texts sorted into classes."""

import secrets
import time
from typing import Any, Final

import orjson

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.model_header import model_name
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, check_fields, integer, read_object
from berth.apis.openai.passthrough import OpenaiAnswers
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

TEXTS: Final = Rule(
    holds=lambda value: isinstance(value, str) or (isinstance(value, list) and set(map(type, value)) == {str}),
    expected="a string, or a list of strings that is not empty",
)
CUTS: Final[dict[str, Rule]] = {
    "instruction": TEXT,
    "max_tokens_per_doc": integer(0),
    "max_tokens_per_query": integer(0),
    "model": TEXT,
    "truncate_prompt_tokens": integer(-1),
    "use_activation": BOOLEAN,
    "user": TEXT,
}
_NAMES: Final = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
SCORE: Final = {**CUTS, **{name: TEXTS for pair in _NAMES for name in pair}}
CLASSIFY: Final = {**CUTS, "input": TEXTS}
_PASSED: Final = ("instruction", "max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens")


class Score(OpenaiAnswers):
    operation = Operation.SCORE

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        first, second = _pair(document)
        check_fields(document, SCORE, required=(first, second))
        ones, others = document[first], document[second]
        if isinstance(ones, list) and len(ones) > 1 and (isinstance(others, str) or len(ones) != len(others)):
            raise InvalidRequestError(
                f"{first!r} must be one text, or as many as {second!r}, not {len(ones)}.", param=first
            )
        return request_of(Operation.SCORE, document, headers, {"text_1": ones, "text_2": others})

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        told = orjson.loads(body)
        data = [{"index": item["index"], "object": "score", "score": item["score"]} for item in told["data"]]
        return orjson.dumps({**head("score", request), "data": data, "usage": usage_shown(told)})


class Classify(OpenaiAnswers):
    operation = Operation.CLASSIFY

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, CLASSIFY, required=("input",))
        return request_of(Operation.CLASSIFY, document, headers, {"input": document["input"]})

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        told = orjson.loads(body)
        data = [{**item, "num_classes": len(item["probs"])} for item in told["data"]]
        return orjson.dumps({**head("classify", request), "data": data, "usage": usage_shown(told)})


def request_of(operation: Operation, document: Json, headers: Headers, fields: Json) -> InferenceRequest:
    """With the fields that engines cut texts by, where the client set them."""
    cuts = {name: document[name] for name in _PASSED if document.get(name)}
    if document.get("use_activation") is False:
        cuts["use_activation"] = False
    name = model_name(document, headers)
    ignored = ("user",) if document.get("user") else ()
    return InferenceRequest(operation=operation, model=name, body={**fields, **cuts, "model": name}, ignored=ignored)


def head(kind: str, request: InferenceRequest) -> Json:
    identity = f"{kind}-{secrets.token_hex(8)}"
    return {"id": identity, "object": "list", "created": int(time.time()), "model": request.model}


def usage_shown(told: Json) -> Json:
    usage: dict[str, Any] = told["usage"]
    return {**usage, "completion_tokens": 0, "prompt_tokens_details": None}


def _pair(document: Json) -> tuple[str, str]:
    """The names that this request has for its two texts."""
    for pair in _NAMES:
        if all(document.get(name) is not None for name in pair):
            return pair
    return _NAMES[0]
