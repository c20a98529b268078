"""OpenAI's legacy completions: POST /v1/completions."""

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    PROMPT,
    RESPONSE_FORMAT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    read_object,
    request_of,
)
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.apis.openai.response_format import canonical_format
from berth.canonical import InferenceRequest, Operation
from berth.errors import InvalidRequestError

RULES: dict[str, Rule] = {
    **SAMPLING,
    "best_of": integer(1, 128),
    "echo": BOOLEAN,
    "logprobs": integer(0, 20),
    "prompt": PROMPT,
    "response_format": RESPONSE_FORMAT,
    "suffix": TEXT,
}


class OpenaiCompletions(OpenaiEndpoint):
    operation = Operation.COMPLETION
    native = True

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "prompt"))
        if document.get("response_format") is not None:
            document["response_format"] = canonical_format(document["response_format"])
        if document.get("max_tokens") == 0 and not document.get("echo"):
            raise InvalidRequestError("'max_tokens': 0 needs 'echo': true.", param="max_tokens")
        return request_of(Operation.COMPLETION, document)
