"""Pure decisions of the router: whom to ask in which order, and what to tell a client when nobody answered."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from berth.canonical import Failure, FailureKind
from berth.errors import (
    ApiError,
    ContextLengthError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    UpstreamError,
)
from berth.plan import EngineName, ModelRoute, Replica
from berth.state import ReplicaState, ReplicaStatus

_RETRY_LOADING_S = 5.0
_RETRY_OVERLOADED_S = 1.0
_RETRY_LONGEST_S = 300.0  # of what an engine asks for
# What a 503 says when there is no room; any other 503 is an engine that cannot serve: it loads, stops, or has crashed.
_FULL = re.compile(r"\b(?:busy|full|overloaded|capacity|queue|too many|rate limit|throttled)\b", re.IGNORECASE)

# What a waiting client is told about: the replica that will serve it soonest.
_NEAREST = (
    ReplicaStatus.WAKING,
    ReplicaStatus.STARTING,
    ReplicaStatus.WAITING,
    ReplicaStatus.UNHEALTHY,
    ReplicaStatus.BACKOFF,
    ReplicaStatus.STOPPING,
    ReplicaStatus.FALLING_ASLEEP,
    ReplicaStatus.ASLEEP,
    ReplicaStatus.STANDBY,
    ReplicaStatus.STOPPED,
    ReplicaStatus.FAILED,
)

_WAITING: Mapping[ReplicaStatus, str] = {
    ReplicaStatus.STARTING: "is starting on {engine}{progress}.",
    ReplicaStatus.BACKOFF: "will start again on {engine} after a failure{reason}.",
    ReplicaStatus.UNHEALTHY: "does not answer on {engine}{reason} and is about to be restarted.",
    ReplicaStatus.STOPPING: "is stopping on {engine}{reason}.",
    ReplicaStatus.WAKING: "is waking up on {engine}{reason}.",
    ReplicaStatus.ASLEEP: "is about to be woken on {engine}{reason}.",
}
_REFUSALS: Mapping[int, type[ApiError]] = {404: NotFoundError, 413: TooLargeError}


class Outcome(StrEnum):
    """How one attempt on one replica ended."""

    OK = "ok"
    CONNECT = "connect"  # no connection
    BROKEN = "broken"  # the connection ended before the answer
    TIMEOUT = "timeout"  # no answer in time
    ENGINE = "engine"  # the engine said that it failed
    OVERLOADED = "overloaded"  # it is full: that is load, and no fault of the engine's
    UNSUPPORTED = "unsupported"  # this engine cannot do what is asked
    UNFIT = "unfit"  # a complete answer which is not what was asked for
    CLIENT = "client"  # the request is wrong everywhere
    CUT = "cut"  # the stream had begun and did not come to its end
    STOPPED = "stopped"  # the client left, or Berth stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A failed attempt."""

    replica: str
    engine: EngineName
    outcome: Outcome
    failure: Failure
    retry_after_s: float = 0.0  # when an engine that is full wants to be asked again; 0: it says nothing

    def __str__(self) -> str:
        return f"{self.replica}: {self.failure.message}"


def outcome_of(failure: Failure, status: int = 200) -> Outcome:
    """`status`: of the engine's answer; 200: the failure came inside a stream."""
    if failure.kind is FailureKind.OVERLOADED and status != 429 and not _FULL.search(failure.message):
        return Outcome.ENGINE
    return Outcome(failure.kind.value)


def retry_after_s(header: bytes | None) -> float:
    """Seconds from an engine's Retry-After; 0 where there is none, or a date."""
    return min(float(header), _RETRY_LONGEST_S) if header is not None and header.isdigit() else 0.0


def refusal(failure: Failure) -> ApiError:
    """The answer to a request that is wrong everywhere."""
    kind = _REFUSALS.get(failure.status, InvalidRequestError)
    if failure.code == ContextLengthError.code:
        kind = ContextLengthError
    return kind(failure.message, param=failure.param, code=failure.code, should_retry=False)


def verdict(route: ModelRoute, attempts: Sequence[Attempt]) -> ApiError:
    """The answer when every candidate was asked. There are four cases:

    1. none of them can do it: the request is refused, with the field and the engines;
    2. no connection to any: the model is not there, 503;
    3. those that can do it are full: 429, try again soon;
    4. else at least one failed: 502.
    """
    causes = "; ".join(str(attempt) for attempt in attempts)
    outcomes = {attempt.outcome for attempt in attempts} - {Outcome.UNSUPPORTED}
    if not outcomes:
        first = attempts[0].failure
        return InvalidRequestError(
            f"No engine of model {route.name!r} can do this. {causes}",
            param=first.param,
            code=first.code or "unsupported_parameter",
            should_retry=False,
        )
    if outcomes == {Outcome.CONNECT}:
        return NotReadyError(
            f"No engine of model {route.name!r} can be reached. {causes}",
            retry_after_s=_RETRY_LOADING_S,
            should_retry=False,
        )
    if outcomes == {Outcome.OVERLOADED}:
        soonest_s = min(attempt.retry_after_s for attempt in attempts if attempt.outcome is Outcome.OVERLOADED)
        return OverloadedError(
            f"Every engine of model {route.name!r} is full. {causes}",
            retry_after_s=max(_RETRY_OVERLOADED_S, soonest_s),
            should_retry=False,
        )
    return UpstreamError(f"Every engine of model {route.name!r} failed. {causes}", should_retry=False)


def broken_stream(attempt: Attempt) -> UpstreamError:
    """What ends a stream that had begun and cannot go on."""
    return UpstreamError(f"The answer is not complete. {attempt}", code=attempt.failure.code or UpstreamError.code)


def not_ready(
    route: ModelRoute, replicas: Mapping[str, Replica], statuses: Mapping[str, ReplicaState], now: float
) -> NotReadyError:
    """The answer for a model that nothing serves now: what is nearest to serving it, and how far that is."""
    state = min((statuses[name] for name in route.replicas), key=lambda state: _NEAREST.index(state.status))
    engine = replicas[state.name].engine
    if state.status in {ReplicaStatus.FAILED, ReplicaStatus.STOPPED}:
        reasons = "; ".join(_failed(statuses[name]) for name in route.replicas)
        return NotReadyError(
            f"Model {route.name!r} is not served: {reasons}. See `berth status` and `berth logs`.",
            code="model_failed",
            should_retry=False,
        )
    return NotReadyError(f"Model {route.name!r} {_waiting(state, engine)}", retry_after_s=_retry_after_s(state, now))


def unsupported(message: str, param: str | None) -> Failure:
    return Failure(
        kind=FailureKind.UNSUPPORTED, status=400, message=message, type=InvalidRequestError.type, param=param
    )


def unfit(problem: str) -> Failure:
    return Failure(
        kind=FailureKind.ENGINE,
        status=UpstreamError.status,
        message=problem,
        type=UpstreamError.type,
        code="schema_not_kept",
    )


def client_failure(error: InvalidRequestError) -> Failure:
    return Failure(
        kind=FailureKind.CLIENT,
        status=error.status,
        message=error.message,
        type=error.type,
        code=error.code,
        param=error.param,
    )


def engine_failure(message: str) -> Failure:
    return Failure(
        kind=FailureKind.ENGINE,
        status=UpstreamError.status,
        message=message,
        type=UpstreamError.type,
        code=UpstreamError.code,
    )


def _failed(state: ReplicaState) -> str:
    reason = f" ({state.reason.rstrip('.')})" if state.reason else ""
    return f"{state.name} {state.status}{reason}"


def _waiting(state: ReplicaState, engine: EngineName) -> str:
    reason = f" ({state.reason.rstrip('.')})" if state.reason else ""
    words = _WAITING.get(state.status, "is waiting for its turn to start on {engine}{reason}.")
    return words.format(engine=engine, reason=reason, progress=_progress(state))


def _progress(state: ReplicaState) -> str:
    if state.progress is None:
        return ""
    percent = "" if state.progress.percent is None else f" {state.progress.percent:.0f} %"
    return f": {state.progress.phase}{percent}"


def _retry_after_s(state: ReplicaState, now: float) -> float:
    if state.status is ReplicaStatus.BACKOFF and state.next_start_at is not None:
        return max(_RETRY_LOADING_S, state.next_start_at - now)
    return _RETRY_LOADING_S


class ContinuationBlocker(StrEnum):
    """Why a stream is not continued."""

    CHOICES = "choices"  # several answers in one stream
    ECHO = "echo"  # the prompt is part of the answer
    LOGPROBS = "logprobs"  # of tokens that the next engine does not generate
    TOOLS = "tools"  # a tool call has begun, or is forced
    CONSTRAINT = "constraint"  # a JSON schema or a grammar is half done
    REASONING = "reasoning"  # the answer holds reasoning, and no engine can start behind it
    SEED = "seed"  # the rest would not be what this seed gives
    PROMPT = "prompt"  # of token ids, which text cannot be added to
    STOP = "stop"  # engines hold text back that may become a stop string, and so it ends inside of a token
    BYTES = "bytes"  # the text holds U+FFFD, which may stand for any bytes
    HIDDEN = "hidden"  # tokens that no text shows
    MODALITY = "modality"  # more than text
    BEGINNING = "beginning"  # nothing of it is known
    USAGE = "usage"  # nothing is missing but the usage, which no other engine can tell
    ENGINE = "engine"  # no other engine with the same weights is ready
    AGAIN = "again"  # it was continued once
