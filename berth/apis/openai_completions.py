"""OpenAI's completions, which it calls legacy: POST /v1/completions."""

from berth.apis.openai_errors import error_body, error_frame
from berth.apis.openai_fields import (
    BOOLEAN,
    PROMPT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    read_object,
    wants_usage,
)
from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError

RULES: dict[str, Rule] = {
    **SAMPLING,
    "best_of": integer(1, 128),
    "echo": BOOLEAN,
    "logprobs": integer(0, 20),
    "prompt": PROMPT,
    "suffix": TEXT,
}


class OpenaiCompletions:
    operation = Operation.COMPLETION

    def parse(self, body: bytes) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "prompt"))
        return InferenceRequest(
            operation=Operation.COMPLETION,
            model=document["model"],
            body=document,
            stream=bool(document.get("stream")),
            include_usage=wants_usage(document),
        )

    def error(self, error: ApiError) -> bytes:
        return error_body(error)

    def error_frame(self, error: ApiError) -> bytes:
        return error_frame(error)
