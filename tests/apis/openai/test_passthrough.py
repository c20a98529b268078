import json

import pytest

from berth.apis.base import ApiFormat
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.apis.openai.embeddings import OpenaiEmbeddings
from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError, ContextLengthError, ModelNotFoundError, OverloadedError, UpstreamError
from berth.sse import data_of

FORMATS: list[ApiFormat] = [OpenaiChat(), OpenaiCompletions(), OpenaiEmbeddings()]

ERRORS: list[tuple[ApiError, str, str | None]] = [
    (ContextLengthError("too long", param="messages"), "invalid_request_error", "context_length_exceeded"),
    (ModelNotFoundError("no such model"), "invalid_request_error", "model_not_found"),
    (OverloadedError("full"), "rate_limit_error", "overloaded"),
    (UpstreamError("failed", code="special"), "upstream_error", "special"),
    (ApiError("odd \u2028 text\n"), "server_error", None),
]


@pytest.mark.parametrize(("error", "kind", "code"), ERRORS)
@pytest.mark.parametrize("api", FORMATS)
def test_errors_have_openais_envelope(api: ApiFormat, error: ApiError, kind: str, code: str | None) -> None:
    expected = {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}

    assert json.loads(api.error(error)) == expected
    assert api.status(error) == error.status
    ending = api.stream(InferenceRequest(operation=api.operation, model="m", body={})).fail(error)
    assert json.loads(data_of(ending) or b"") == expected
    assert ending.endswith(b"\n\n")


def test_each_format_has_its_operation() -> None:
    assert [api.operation for api in FORMATS] == [Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDING]
