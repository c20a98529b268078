"""What came of one attempt on one replica."""

from dataclasses import dataclass

from berth.canonical import Failure
from berth.router import routing
from berth.router.http_client import AnswerTimeoutError, ConnectFailedError, UpstreamFailureError
from berth.router.liveness import HangsError
from berth.router.relay import Relay
from berth.router.routing import Attempt, Outcome
from berth.router.upstreams import Upstream

# What an outcome tells about the replica; of the others it tells nothing.
WELL = frozenset({Outcome.OK, Outcome.CLIENT, Outcome.UNSUPPORTED, Outcome.UNFIT})
ILL = frozenset({Outcome.CONNECT, Outcome.BROKEN, Outcome.TIMEOUT, Outcome.ENGINE, Outcome.CUT})


class AttemptFailedError(Exception):
    """Nothing of this attempt has reached the client: another replica may be asked."""

    def __init__(self, outcome: Outcome, failure: Failure, *, retry_after_s: float = 0.0, asked: bool = True) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure
        self.retry_after_s = retry_after_s  # of an engine that is full; 0: it says nothing
        self.asked = asked  # False: it was known without the engine


@dataclass(slots=True, kw_only=True)
class Result:
    """How an attempt ended that has reached the client."""

    outcome: Outcome = Outcome.OK
    cut: Failure | None = None  # why the stream is not whole
    relay: Relay | None = None  # of such a stream: it knows what the client has


def failed(exc: UpstreamFailureError, limit_s: float) -> AttemptFailedError:
    """Of a connection that broke, or was silent for `limit_s`."""
    if isinstance(exc, HangsError):
        return AttemptFailedError(Outcome.TIMEOUT, routing.engine_failure(str(exc)))
    if isinstance(exc, AnswerTimeoutError):
        failure = routing.engine_failure(f"the engine said nothing for {limit_s:g} s")
        return AttemptFailedError(Outcome.TIMEOUT, failure)
    outcome = Outcome.CONNECT if isinstance(exc, ConnectFailedError) else Outcome.BROKEN
    return AttemptFailedError(outcome, routing.engine_failure(str(exc)))


def attempt_of(upstream: Upstream, outcome: Outcome, failure: Failure, retry_after_s: float = 0.0) -> Attempt:
    replica = upstream.replica
    return Attempt(
        replica=replica.name, engine=replica.engine, outcome=outcome, failure=failure, retry_after_s=retry_after_s
    )
