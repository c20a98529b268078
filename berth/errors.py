"""The exceptions of Berth, each with its exit code or HTTP status.

    BerthError                     an operator can act on the message              exit 70
    ├── ConfigError                invalid configuration                           exit 78
    │   └── PlacementError         the models do not fit on these GPUs             exit 78
    ├── MachineError               the machine is not ready for a start            exit 69
    │   ├── PortInUseError         another process listens on the port             exit 69
    │   └── UnwritableError        run or data directory not writable, or full     exit 73
    ├── ControlError               supervisord or control does not respond         exit 69
    ├── DeniedError                control does not give the lease for a bench     exit 4
    ├── StartError                 an engine to be measured does not start         exit 1
    ├── ArchiveError               damaged archive, or not one of Berth's          exit 65
    └── ApiError                   an error response, in the client's API format   HTTP status
        ├── InvalidRequestError    invalid request                                 400
        │   └── ContextLengthError   prompt and completion exceed the context      400
        ├── AuthenticationError    missing or wrong key                            401
        ├── ForbiddenError         a web page, or a host name, that is not allowed 403
        ├── NotFoundError          unknown path                                    404
        │   └── ModelNotFoundError   unknown model                                 404
        ├── MethodNotAllowedError  known path, wrong method                        405
        ├── RequestTimeoutError    the client stalled while sending its request    408
        ├── ConflictError          an operation that cannot be done now            409
        ├── TooLargeError          the body exceeds BERTH_MAX_BODY                 413
        ├── UnsupportedTypeError   a content type that the path does not accept    415
        │   └── UnsupportedEncodingError   a content encoding that cannot be read  415
        ├── MisdirectedError       the model is served by another box              421
        ├── UpgradeRequiredError   WebSocket, where only HTTP is served            426
        ├── NotServedError         an endpoint that Berth does not have             501
        ├── OverloadedError        all candidates are at capacity                  429
        ├── RateLimitError         a limit of the client's key                     429
        │   └── BudgetError          its tokens of a day or month are used         429
        ├── UpstreamError          the engine failed, and no fallback succeeded    502
        ├── NotReadyError          the model is loading, or has no ready replica   503
        └── LoopDetectedError      the request has passed too many Berths          508

Exit codes follow sysexits.h (65 EX_DATAERR, 69 EX_UNAVAILABLE, 70 EX_SOFTWARE, 73 EX_CANTCREAT, 78 EX_CONFIG). 2 is a
wrong command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

LONGEST_MESSAGE: Final = 4000  # characters of an error response: several engines' messages fit
LONGEST_NAME: Final = 200  # of names in messages, headers and log lines
Detail: TypeAlias = str | float | Sequence[str]


class BerthError(Exception):
    """A failure that an operator can act on. The message names the next step."""

    exit_code: ClassVar[int] = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One invalid setting."""

    variable: str  # e.g. "BERTH_PORT", or "BERTH_MODELS: chat.context" for a nested field
    value: str  # as given; "" for a missing variable, "***" for a secret
    reason: str  # what is wrong
    allowed: str  # the valid values
    example: str  # one line to copy

    def __str__(self) -> str:
        given = f"={self.value!r}" if self.value else ""
        return f"{self.variable}{given}: {self.reason}. Allowed: {self.allowed}. Example: {self.example}"


class ConfigError(BerthError):
    """All problems of a configuration together."""

    exit_code = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PlacementError(ConfigError):
    """The models do not fit on the GPUs. `text` shows the total per GPU and the smallest change that would fit."""

    def __init__(self, text: str) -> None:
        self.problems = ()
        BerthError.__init__(self, text)


class MachineError(BerthError):
    """The machine is not ready for a start. The same configuration may work later."""

    exit_code = 69


class PortInUseError(MachineError):
    pass


class UnwritableError(MachineError):
    exit_code = 73


class ControlError(BerthError):
    """Supervisord or control does not respond."""

    exit_code = 69


class ArchiveError(BerthError):
    """An archive is damaged, or was not written by `berth export`."""

    exit_code = 65


class ApiError(BerthError):
    """An error response. Each client API renders it in its own format."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"  # OpenAI's error type
    code: str | None = None  # OpenAI's error code
    headers: ClassVar[Mapping[str, str]] = {}  # of every such response

    def __init__(  # the error's fields are OpenAI's
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        details: Mapping[str, Detail] | None = None,
    ) -> None:
        message = shortened(message, LONGEST_MESSAGE)  # it may quote what the client sent
        super().__init__(message)
        self.message = message
        self.param = None if param is None else shortened(param, LONGEST_NAME)
        if code is not None:
            self.code = shortened(code, LONGEST_NAME)
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry  # becomes `x-should-retry`, which the official SDKs obey
        self.details = details  # for programs, besides the code: why the model does not serve, and until when

    @property
    def extension(self) -> dict[str, dict[str, Detail]]:
        """The member `berth` of the error, where there are details."""
        return {"berth": {"code": self.code or self.type, **self.details}} if self.details else {}


class InvalidRequestError(ApiError):
    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class AuthenticationError(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(ApiError):
    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class NotFoundError(ApiError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class ModelNotFoundError(NotFoundError):
    code = "model_not_found"


class MethodNotAllowedError(ApiError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeoutError(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class ConflictError(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLargeError(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedTypeError(ApiError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class UnsupportedEncodingError(UnsupportedTypeError):
    code = "unsupported_content_encoding"
    headers: ClassVar[Mapping[str, str]] = {"accept-encoding": "gzip, deflate, zstd"}


class MisdirectedError(ApiError):
    status = 421
    type = "invalid_request_error"
    code = "misdirected_request"


class UpgradeRequiredError(ApiError):
    status = 426
    type = "invalid_request_error"
    code = "upgrade_required"
    headers: ClassVar[Mapping[str, str]] = {"upgrade": "HTTP/1.1"}


class NotServedError(ApiError):
    status = 501
    type = "invalid_request_error"
    code = "not_served"


class OverloadedError(ApiError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class RateLimitError(ApiError):
    """A limit of the client's own key, which is over in a known time."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class BudgetError(RateLimitError):
    """The tokens of a day or a month are used up: SDKs must not wait for that."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class UpstreamError(ApiError):
    status = 502
    type = "upstream_error"
    code = "engine_failed"


class NotReadyError(ApiError):
    status = 503
    type = "service_unavailable"
    code = "model_not_ready"


class LoopDetectedError(ApiError):
    status = 508
    type = "upstream_error"
    code = "loop_detected"


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """`text`, or its beginning and end if it is longer than `most` characters: messages end with the next step."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"
