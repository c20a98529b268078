"""The exceptions of Berth, each with the exit code or the HTTP status that it means.

    BerthError                     an operator can act on the message             exit 70
    ├── ConfigError                the environment asks for what cannot be         exit 78
    │   └── PlacementError         the models do not fit on these GPUs             exit 78
    ├── MachineError               the machine is not fit to start now             exit 69
    │   ├── PortInUseError         another process listens on our port             exit 69
    │   └── UnwritableError        run or data directory: no write access, full    exit 73
    ├── ControlError               supervisor or control does not answer           exit 69
    ├── ArchiveError               what is to be imported is damaged, or not ours  exit 65
    └── ApiError                   an answer to a client, in its API's shape       HTTP status
        ├── InvalidRequestError    the request itself is wrong                     400
        │   └── ContextLengthError   prompt and answer do not fit                  400
        ├── AuthenticationError    no key, or a wrong one                          401
        ├── NotFoundError          unknown path                                    404
        │   └── ModelNotFoundError   no model of that name or alias                404
        ├── MethodNotAllowedError  known path, other method                        405
        ├── RequestTimeoutError    the client stopped in the middle of its request 408
        ├── TooLargeError          the body is over BERTH_MAX_BODY                 413
        ├── OverloadedError        every candidate is full                         429
        ├── UpstreamError          the engine failed, and no other could help      502
        └── NotReadyError          the model is loading, or nothing serves it      503

Exit codes follow sysexits.h (65 EX_DATAERR, 69 EX_UNAVAILABLE, 70 EX_SOFTWARE, 73 EX_CANTCREAT, 78 EX_CONFIG); 2 is
a wrong command line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class BerthError(Exception):
    """A failure that an operator can act on: the message says what to do next."""

    exit_code: ClassVar[int] = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with the configuration."""

    variable: str  # e.g. "BERTH_PORT", or "BERTH_MODELS: chat.context" for a field inside
    value: str  # as given; "" where the variable is missing, "***" for a secret
    reason: str  # what is wrong, in a few words
    allowed: str  # what would be right
    example: str  # one line to copy

    def __str__(self) -> str:
        given = f"={self.value!r}" if self.value else ""
        return f"{self.variable}{given}: {self.reason}. Allowed: {self.allowed}. Example: {self.example}"


class ConfigError(BerthError):
    """All problems of a configuration at once."""

    exit_code = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PlacementError(ConfigError):
    """The models do not fit on the GPUs. `text` is the sum per GPU and the smallest change that would fit."""

    def __init__(self, text: str) -> None:
        self.problems = ()
        BerthError.__init__(self, text)


class MachineError(BerthError):
    """The machine is not fit to start now; the same configuration may work later."""

    exit_code = 69


class PortInUseError(MachineError):
    pass


class UnwritableError(MachineError):
    exit_code = 73


class ControlError(BerthError):
    """The supervisor, or control, does not answer."""

    exit_code = 69


class ArchiveError(BerthError):
    """An archive is damaged, or none that `berth export` wrote."""

    exit_code = 65


class ApiError(BerthError):
    """An error for a client. Each client API renders it in its own shape."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"  # OpenAI's error type
    code: str | None = None  # OpenAI's error code

    def __init__(  # the error's fields are OpenAI's
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry  # becomes `x-should-retry`, which the official SDKs obey


class InvalidRequestError(ApiError):
    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class AuthenticationError(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


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


class TooLargeError(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class OverloadedError(ApiError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class UpstreamError(ApiError):
    status = 502
    type = "upstream_error"
    code = "engine_failed"


class NotReadyError(ApiError):
    status = 503
    type = "service_unavailable"
    code = "model_not_ready"
