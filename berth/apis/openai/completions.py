"""OpenAI's legacy completions: POST /v1/completions."""

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    PROMPT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    read_object,
    request_of,
)
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.canonical import InferenceRequest, Operation

RULES: dict[str, Rule] = {
    **SAMPLING,
    "best_of": integer(1, 128),
    "echo": BOOLEAN,
    "logprobs": integer(0, 20),
    "prompt": PROMPT,
    "suffix": TEXT,
}


class OpenaiCompletions(OpenaiEndpoint):
    operation = Operation.COMPLETION
    native = True

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "prompt"))
        return request_of(Operation.COMPLETION, document)
