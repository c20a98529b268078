"""How attempts end, and the error that a client gets when none of them succeeded; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from berth.canonical import Failure, FailureKind
from berth.errors import (
    ApiError,
    ContextLengthError,
    Detail,
    InvalidRequestError,
    LoopDetectedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    UpstreamError,
)
from berth.plan import EngineName, Load, ModelRoute, Replica
from berth.router.exchange.inflight import StopReason, drain_error
from berth.state import BERTH_STOPS, AttachedFault, ReplicaState, ReplicaStatus

_RETRY_LOADING_S = 5.0
_RETRY_MEMORY_S = 30.0
_RETRY_LEASED_S = 60.0
RETRY_OVERLOADED_S = 1.0
_RETRY_LONGEST_S = 300.0  # the upper limit for an engine's Retry-After

# Errors describe the replica that will be ready soonest.
_READY_SOONEST = (
    ReplicaStatus.WAKING,
    ReplicaStatus.STARTING,
    ReplicaStatus.WAITING,
    ReplicaStatus.UNHEALTHY,
    ReplicaStatus.BACKOFF,
    ReplicaStatus.STOPPING,
    ReplicaStatus.DRAINING,
    ReplicaStatus.FALLING_ASLEEP,
    ReplicaStatus.ASLEEP,
    ReplicaStatus.STANDBY,
    ReplicaStatus.UNLOADED,
    ReplicaStatus.STOPPED,
    ReplicaStatus.FAILED,
)

_NOT_READY: Mapping[ReplicaStatus, str] = {
    ReplicaStatus.STARTING: "is starting on {engine}{progress}.",
    ReplicaStatus.BACKOFF: "will start again on {engine} after a failure{reason}.",
    ReplicaStatus.UNHEALTHY: "does not respond on {engine}{reason} and is about to be restarted.",
    ReplicaStatus.DRAINING: "finishes its requests on {engine}{reason}.",
    ReplicaStatus.STOPPING: "is stopping on {engine}{reason}.",
    ReplicaStatus.WAKING: "is waking up on {engine}{reason}.",
    ReplicaStatus.ASLEEP: "is about to be woken on {engine}{reason}.",
}
_NOT_READY_THERE: Mapping[ReplicaStatus, str] = {  # an attached server, which its own operator starts and stops
    **_NOT_READY,
    ReplicaStatus.STARTING: "is not ready yet at its attached server{reason}.",
    ReplicaStatus.UNHEALTHY: "is not available at its attached server{reason}.",
}
_FOR_THE_OPERATOR = (AttachedFault.WRONG_KEY, AttachedFault.UNKNOWN_MODEL)  # reasons that time does not change
_REJECTIONS: Mapping[int, type[ApiError]] = {404: NotFoundError, 413: TooLargeError}


class Outcome(StrEnum):
    """How one attempt on one replica ended."""

    OK = "ok"
    CONNECT = "connect"  # no connection
    BROKEN = "broken"  # the connection ended before the response did
    TIMEOUT = "timeout"  # no response in time
    ENGINE = "engine"  # the engine reported a failure
    OVERLOADED = "overloaded"  # the engine is at capacity, which is load and not a failure
    LOADING = "loading"  # an attached server that is not ready yet, and says so
    CONFIG = "config"  # an attached server refuses Berth's key, or its name for the model
    UNSUPPORTED = "unsupported"  # this engine does not support the request
    UNFIT = "unfit"  # a complete response that does not match the requested format
    CLIENT = "client"  # the request is invalid on every engine
    CUT = "cut"  # the stream ended before it was complete
    STOPPED = "stopped"  # the client disconnected, or Berth shuts down
    PREEMPTED = "preempted"  # Berth gave it up: the replica makes room for another model


class Preemption(StrEnum):
    """What became of a request that was preempted, each time."""

    CONTINUED = "continued"  # its stream was resumed, by the same replica or another one
    AGAIN = "again"  # nothing had reached the client: it was queued again
    ENDED = "ended"  # with an error: it cannot be continued, or the model does not come back
    STOPPED = "stopped"  # its client disconnected meanwhile, or Berth shut down


_TEMPORARY = frozenset({Outcome.OVERLOADED, Outcome.LOADING})
# What an outcome shows about the replica; the others show nothing.
HEALTHY = frozenset({Outcome.OK, Outcome.CLIENT, Outcome.UNSUPPORTED, Outcome.UNFIT})
UNHEALTHY = frozenset(
    {
        *(Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE, Outcome.CUT),
        *(Outcome.LOADING, Outcome.CONFIG),
    }
)


FAILED_ATTEMPTS = (Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE, Outcome.CUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A failed attempt."""

    replica: str
    engine: EngineName
    outcome: Outcome
    failure: Failure
    retry_after_s: float = 0.0  # of an overloaded or loading engine; 0: it gives none

    def __str__(self) -> str:
        return f"{self.replica}: {self.failure.message}"


def outcome_of(failure: Failure, status: int = 200, retry_after_s: float = 0.0) -> Outcome:
    """`status` and `retry_after_s`: of the engine's response; 200: the failure came inside a stream."""
    if failure.kind is FailureKind.ENGINE and status == 503 and retry_after_s:
        return Outcome.LOADING  # it expects to serve then
    return Outcome(failure.kind.value)


def retry_after_s(header: bytes | None) -> float:
    """Seconds from an engine's Retry-After; 0 if it is missing or a date."""
    return min(float(header), _RETRY_LONGEST_S) if header is not None and header.isdigit() else 0.0


def rejection(failure: Failure) -> ApiError:
    """The error for a request that is invalid on every engine."""
    kind = _REJECTIONS.get(failure.status, InvalidRequestError)
    if failure.code == ContextLengthError.code:
        kind = ContextLengthError
    return kind(failure.message, param=failure.param, code=failure.code, should_retry=False)


def final_error(route: ModelRoute, attempts: Sequence[Attempt]) -> ApiError:
    """The error when all candidates have failed. There are five cases:

    1. none is only busy or loading, and one is a Berth that the request has passed already: 508;
    2. no engine supports the request: 400, with the field and the engines;
    3. no engine accepts a connection, or it is still loading: 503;
    4. the engines that support it are overloaded or loading: 429, retry soon;
    5. otherwise at least one failed: 502.

    A server that refuses Berth's key or model name counts in the last case only: it would refuse any request.
    """
    causes = "; ".join(str(attempt) for attempt in attempts)
    outcomes = {attempt.outcome for attempt in attempts} - {Outcome.UNSUPPORTED}
    outcomes = outcomes - {Outcome.CONFIG} or outcomes
    if not outcomes & _TEMPORARY and any(attempt.failure.code == LoopDetectedError.code for attempt in attempts):
        return LoopDetectedError(f"Every engine of model {route.name!r} failed. {causes}", should_retry=False)
    if not outcomes:
        first = attempts[0].failure
        return InvalidRequestError(
            f"No engine of model {route.name!r} supports this request. {causes}",
            param=first.param,
            code=first.code or "unsupported_parameter",
            should_retry=False,
        )
    waits = [attempt.retry_after_s for attempt in attempts if attempt.outcome in outcomes & _TEMPORARY]
    if outcomes <= {Outcome.CONNECT, Outcome.LOADING}:
        loading = Outcome.LOADING in outcomes
        return NotReadyError(
            f"No engine of model {route.name!r} {'is ready' if loading else 'can be reached'}. {causes}",
            retry_after_s=min(waits, default=0.0) or _RETRY_LOADING_S,
            should_retry=None if loading else False,
        )
    if outcomes <= _TEMPORARY:
        soonest_s = min(waits)
        return OverloadedError(
            f"Every engine of model {route.name!r} is at capacity. {causes}",
            retry_after_s=max(RETRY_OVERLOADED_S, soonest_s),
            should_retry=False,
        )
    return UpstreamError(f"Every engine of model {route.name!r} failed. {causes}", should_retry=False)


def broken_stream(attempt: Attempt) -> UpstreamError:
    """The error that ends a stream which cannot be continued."""
    return UpstreamError(f"The response is incomplete. {attempt}", code=attempt.failure.code or UpstreamError.code)


def preempted(attempt: Attempt, blocker: str = "") -> NotReadyError:
    """The error of a request whose engine made room for another model. `blocker`: why its stream is not continued;
    "": nothing had reached the client, and that was not the first time.
    """
    again = f"and the response cannot be continued ({blocker})" if blocker else "for the second time"
    return NotReadyError(
        f"{'The response is incomplete. ' if blocker else ''}{attempt}, {again}. Send the request again.",
        code="preempted",
        retry_after_s=_RETRY_LOADING_S,
    )


def not_ready(
    route: ModelRoute, replicas: Mapping[str, Replica], statuses: Mapping[str, ReplicaState], now: float
) -> NotReadyError:
    """The error for a model without a ready replica: the one that is closest to ready, and its progress."""
    names = [name for name in route.replicas if not statuses[name].spare] or route.replicas
    state = min((statuses[name] for name in names), key=lambda state: _READY_SOONEST.index(state.status))
    engine, details = replicas[state.name].kind, _details(route, state, now)
    if any(statuses[name].reason == BERTH_STOPS for name in names):
        return drain_error(StopReason.DRAIN)
    if state.status in {ReplicaStatus.FAILED, ReplicaStatus.STOPPED}:
        reasons = "; ".join(f"{name} {statuses[name].status}{_reason(statuses[name])}" for name in names)
        return NotReadyError(
            f"Model {route.name!r} is not available: {reasons}. See `berth status` and `berth logs`.",
            code="model_failed",
            should_retry=False,
            details=details,
        )
    if error := _held(route, state, details):
        return error
    comes = state.status in (ReplicaStatus.WAITING, ReplicaStatus.STARTING, ReplicaStatus.WAKING)
    if route.load is Load.ON_REQUEST and (comes or state.away or state.requested == "loaded"):
        return _being_loaded(route, state, now, details)
    if state.away:
        text = f"Model {route.name!r} is {state.requested}{_reason(state)}: its operator loads it with `berth load`."
        return NotReadyError(text, code="model_not_loaded", should_retry=False, details=details)
    templates = _NOT_READY_THERE if replicas[state.name].attached else _NOT_READY
    template = templates.get(state.status, "is queued to start on {engine}{reason}.")
    progress = ""
    if state.progress is not None:
        percent = "" if state.progress.percent is None else f" {state.progress.percent:.0f} %"
        progress = f": {state.progress.phase}{percent}"
    retry_after_s = _RETRY_LOADING_S
    if state.status is ReplicaStatus.BACKOFF and state.next_start_at is not None:
        retry_after_s = max(_RETRY_LOADING_S, state.next_start_at - now)
    text = template.format(engine=engine, reason=_reason(state), progress=progress)
    should_retry = False if state.reason.startswith(_FOR_THE_OPERATOR) else None
    return NotReadyError(
        f"Model {route.name!r} {text}", retry_after_s=retry_after_s, should_retry=should_retry, details=details
    )


def _details(route: ModelRoute, state: ReplicaState, now: float) -> dict[str, Detail]:
    """For programs: what a message says to people."""
    found: dict[str, Detail] = {"model": route.name, "status": state.status.value}
    if state.progress is not None:
        found["phase"] = state.progress.phase
        if state.progress.percent is not None:
            found["percent"] = state.progress.percent
    if (left_s := state.left_s(now)) is not None:
        found["eta_s"] = round(left_s, 1)
    if state.holders:
        found["holders"] = state.holders
    return found


def _held(route: ModelRoute, state: ReplicaState, details: Mapping[str, Detail]) -> NotReadyError | None:
    """The error for a model whose place something else has."""
    if state.leased:
        text = f"Model {route.name!r} is being measured by `berth bench`, and serves no clients until that ends."
        return NotReadyError(
            text, code="model_leased", retry_after_s=_RETRY_LEASED_S, should_retry=False, details=details
        )
    if state.obstructed:
        text = f"Model {route.name!r} has no room on {state.no_room}: its operator makes room with `berth unpin`."
        return NotReadyError(text, code="no_room", should_retry=False, details=details)
    if state.memory_not_free:
        text = f"The GPU memory that model {route.name!r} needs is not free. {state.memory_not_free}."
        code, retry_after_s = "memory_not_free", _RETRY_MEMORY_S
        return NotReadyError(text, code=code, retry_after_s=retry_after_s, should_retry=False, details=details)
    return None


def _being_loaded(route: ModelRoute, state: ReplicaState, now: float, details: Mapping[str, Detail]) -> NotReadyError:
    """Of a request that has waited as long as it may. The rest of the load is what the last ones took."""
    phase = f": {state.progress.phase}" if state.progress else ""
    text = f"waits for room on {state.no_room}" if state.no_room else f"is being loaded{phase}"
    if state.away and not state.no_room:
        text = "is not loaded yet"
    left_s = state.left_s(now) or 0.0
    begun = state.status in (ReplicaStatus.STARTING, ReplicaStatus.WAKING)
    takes = (
        "" if left_s < 1 else f"; about {left_s:.0f} s are left" if begun else f"; a load takes about {left_s:.0f} s"
    )
    retry_after_s = min(max(left_s, _RETRY_LOADING_S), _RETRY_LONGEST_S)
    text = f"Model {route.name!r} {text}{takes}."
    return NotReadyError(text, code="model_loading", retry_after_s=retry_after_s, details=details)


def loading_queue_full(model: str, length: int, loading: NotReadyError) -> OverloadedError:
    text = f"{length} requests wait already until model {model!r} is loaded (BERTH_QUEUE_SIZE)."
    return OverloadedError(
        text,
        code="queue_full",
        retry_after_s=loading.retry_after_s or _RETRY_LOADING_S,
        details={**(loading.details or {}), "model": model, "queued": length},
    )


def outranked(model: str, retry_after_s: float) -> OverloadedError:
    text = (
        f"The queue of model {model!r} is full (BERTH_QUEUE_SIZE), and a request of higher priority has taken the place"
    )
    return OverloadedError(
        f"{text} of this one.", code="outranked", retry_after_s=retry_after_s, details={"model": model}
    )


def adapter_not_loaded(name: str, error: str) -> NotReadyError:
    if not error:
        return NotReadyError(f"Adapter {name!r} is being loaded.", retry_after_s=_RETRY_LOADING_S)
    text = f"No engine could load adapter {name!r}: {error.rstrip('.')}. See `berth adapters`."
    return NotReadyError(text, code="adapter_failed", should_retry=False)


def client_failure(error: InvalidRequestError) -> Failure:
    return Failure(
        kind=FailureKind.CLIENT,
        status=error.status,
        message=error.message,
        type=error.type,
        code=error.code,
        param=error.param,
    )


def _reason(state: ReplicaState) -> str:
    return f" ({state.reason.rstrip('.')})" if state.reason else ""


class ContinuationBlocker(StrEnum):
    """Why a stream is not continued."""

    CHOICES = "choices"  # several choices in one stream
    ECHO = "echo"  # the prompt is part of the response
    LOGPROBS = "logprobs"  # of tokens that the next engine does not generate
    TOOLS = "tools"  # a tool call has begun, or is forced
    CONSTRAINT = "constraint"  # a JSON schema or a grammar is half done
    REASONING = "reasoning"  # the response contains reasoning, and no engine can start after it
    SEED = "seed"  # the rest would differ from what this seed gives
    PROMPT = "prompt"  # of token ids, to which text cannot be appended
    STOP = "stop"  # engines hold back text that may become a stop string, so the cut may be inside of a token
    BYTES = "bytes"  # the text contains U+FFFD, which may stand for any bytes
    HIDDEN = "hidden"  # tokens without text
    MODALITY = "modality"  # not only text
    BEGINNING = "beginning"  # no text yet
    ENCODING = "encoding"  # what the engine sent has no form in the client's API
    USAGE = "usage"  # only the usage is missing, and no other engine has it
    ENGINE = "engine"  # no engine with the same weights is ready, or is about to be
    AGAIN = "again"  # it was continued as often as one stream may be
