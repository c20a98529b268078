import orjson
import pytest

from berth import errors
from berth.apis.anthropic.errors import error_body, error_status
from berth.dialects.failures import failure_of
from berth.errors import ApiError, ContextLengthError
from tests.apis.anthropic.judge import checked_error
from tests.fakes.recordings import recording

TOO_MANY = (
    "input length and `max_tokens` exceed context limit: 19 + 5000 > 2048, decrease input length or `max_tokens` and "
    "try again"
)
KINDS: list[tuple[type[ApiError], int, str]] = [
    (errors.InvalidRequestError, 400, "invalid_request_error"),
    (errors.ContextLengthError, 400, "invalid_request_error"),
    (errors.AuthenticationError, 401, "authentication_error"),
    (errors.ForbiddenError, 403, "permission_error"),
    (errors.NotFoundError, 404, "not_found_error"),
    (errors.ModelNotFoundError, 404, "not_found_error"),
    (errors.MethodNotAllowedError, 405, "invalid_request_error"),
    (errors.RequestTimeoutError, 408, "timeout_error"),
    (errors.ConflictError, 409, "invalid_request_error"),
    (errors.TooLargeError, 413, "request_too_large"),
    (errors.UnsupportedTypeError, 415, "invalid_request_error"),
    (errors.UnsupportedEncodingError, 415, "invalid_request_error"),
    (errors.MisdirectedError, 421, "invalid_request_error"),
    (errors.UpgradeRequiredError, 426, "invalid_request_error"),
    (errors.NotServedError, 501, "api_error"),
    (errors.OverloadedError, 529, "overloaded_error"),
    (errors.RateLimitError, 429, "rate_limit_error"),
    (errors.BudgetError, 429, "rate_limit_error"),
    (errors.UpstreamError, 502, "api_error"),
    (errors.NotReadyError, 503, "api_error"),
    (errors.LoopDetectedError, 508, "api_error"),
    (errors.ApiError, 500, "api_error"),
]


@pytest.mark.parametrize(("kind", "status", "name"), KINDS)
def test_errors_have_anthropics_type_and_status(kind: type[ApiError], status: int, name: str) -> None:
    error = kind("what happened")

    found = checked_error(orjson.loads(error_body(error)))

    assert (error_status(error), found["type"]) == (status, name)
    assert "what happened" in found["message"]


def test_table_covers_every_error() -> None:
    def below(kind: type[ApiError]) -> set[type[ApiError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    assert below(ApiError) == {kind for kind, _, _ in KINDS}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm/base/err_ctx_too_long", "prompt is too long: 2049 tokens > 2048 maximum"),
        ("sglang/base/err_too_long", "prompt is too long: 6018 tokens > 2048 maximum"),
        ("trtllm/base/err_too_long", "prompt is too long: 6012 tokens > 2048 maximum"),
        ("sglang/base/err_too_many_tokens", TOO_MANY),
        (
            "vllm/base/err_ctx_maxtok_too_big",
            "max_tokens: 5000 > 2048, which is the maximum allowed number of output tokens",
        ),
    ],
)
def test_context_errors_have_the_text_that_claude_code_parses(name: str, words: str) -> None:
    recorded = recording(name)
    failure = failure_of(recorded.status, recorded.answer)

    found = orjson.loads(error_body(ContextLengthError(failure.message, code=failure.code)))["error"]["message"]

    assert found == f"{words}. {failure.message}"


OLDER_VLLM = (
    "This model's maximum context length is 2048 tokens. However, you requested 5019 tokens (19 in the messages, "
    "5000 in the completion)."
)
TRTLLM = "The sum of prompt length ({}.0), query length (0) and max_tokens (200) should not exceed max_seq_len (2048)"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (OLDER_VLLM, b"exceed context limit: 19 + 5000 > 2048"),
        (TRTLLM.format(2000), b"exceed context limit: 2000 + 200 > 2048"),
        (TRTLLM.format(3000), b"prompt is too long: 3000 tokens > 2048 maximum"),
    ],
)
def test_parses_context_errors_of_every_engine(message: str, words: bytes) -> None:
    assert words in error_body(ContextLengthError(message))


def test_context_error_without_numbers_is_a_long_prompt() -> None:
    found = orjson.loads(error_body(ContextLengthError("No room.")))["error"]["message"]

    assert found == "prompt is too long: No room."
