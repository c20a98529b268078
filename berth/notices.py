"""What needs an operator's attention: a pure function of the Plan, the State and what the journal has of late.

/status, /events, `berth status` and `berth top` show the same notices, the most urgent first. When all is well there
is none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from berth.journal import LONG_WAIT_S, Tally
from berth.plan import ModelRoute, Plan
from berth.state import ReplicaState, ReplicaStatus, State

RECENT_S: Final = 300.0  # of the journal
STALE_S: Final = 10.0  # control publishes every 2 s
_LEAST: Final = 5  # errors or fallbacks: a single one is no trend
_ERROR_SHARE: Final = 0.05
_FALLBACK_SHARE: Final = 0.01
_LONG_WAIT_SHARE: Final = 0.05
_LOOPBACK: Final = ("localhost", "::1")
_FAILING: Final = (ReplicaStatus.FAILED, ReplicaStatus.UNHEALTHY)
_COMING: Final = (ReplicaStatus.WAITING, ReplicaStatus.STARTING, ReplicaStatus.WAKING)


class Kind(StrEnum):
    """The most urgent first."""

    MODEL_DOWN = "model_down"
    REPLICA_FAILED = "replica_failed"
    REPLICA_LOOPING = "replica_looping"
    CONTROL_SILENT = "control_silent"
    ERRORS = "errors"
    FALLBACKS = "fallbacks"
    QUEUE_FULL = "queue_full"
    WAITING_LONG = "waiting_long"
    DISK_LOW = "disk_low"
    OPEN_ACCESS = "open_access"
    CAPTURE_ON = "capture_on"


_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    kind: Kind
    text: str  # one sentence
    model: str = ""
    replica: str = ""
    since: float | None = None  # Unix seconds; None: unknown
    help: str = ""  # a command, or the variable to set


def notices(plan: Plan, state: State | None, recent: Mapping[str, Tally], *, now: float) -> list[Notice]:
    """`recent`: by model, since `now` - RECENT_S."""
    found = [*of_berth(plan, state, now)]
    statuses = {one.name: one for one in state.replicas} if state else {}
    for route in plan.models:
        states = [statuses[name] for name in route.replicas if name in statuses]
        found += of_replicas(route, states)
        for name in (route.name, *(adapter.name for adapter in route.adapters)):
            found += of_requests(name, recent.get(name, Tally()))
    return sorted(found, key=lambda notice: _ORDER[notice.kind])


def of_berth(plan: Plan, state: State | None, now: float) -> Iterator[Notice]:
    published = state.published_at if state else plan.created
    if now - published > STALE_S:
        text = f"control is silent for {now - published:.0f} s: engines that fail are not restarted"
        yield Notice(kind=Kind.CONTROL_SILENT, text=text, since=published, help="the container's log")
    if state is not None and state.run_dir_full:
        text = f"{plan.paths.run_dir} is full: engine logs and stored responses are lost"
        yield Notice(kind=Kind.DISK_LOW, text=text, help=f"df -h {plan.paths.run_dir}")
    if state is not None and state.capture is not None and now < state.capture.ends:
        text = f"requests are being captured ({state.capture.shown()})"
        yield Notice(kind=Kind.CAPTURE_ON, text=text, help="berth capture off")
    host = plan.listen.host
    if plan.open_access and not (host in _LOOPBACK or host.startswith("127.")):
        text = f"no API keys: open to {'everyone' if plan.open_to == 'all' else 'everyone in private networks'}"
        yield Notice(kind=Kind.OPEN_ACCESS, text=text, help="BERTH_API_KEYS")


def of_replicas(route: ModelRoute, states: list[ReplicaState]) -> Iterator[Notice]:
    """A model that is loading for the first time is not down; one that was unloaded or put to sleep is as it should."""
    ready = any(one.status is ReplicaStatus.READY for one in states)
    coming = any(one.status in _COMING and not one.restarts for one in states)
    if states and not ready and not coming and not any(one.away or one.requested for one in states):
        worst = max(states, key=lambda one: (bool(one.reason), one.since))
        reason = f": {worst.name} is {worst.status}{f', {worst.reason}' if worst.reason else ''}"
        yield Notice(
            kind=Kind.MODEL_DOWN,
            text=f"no engine serves {route.name}{reason}",
            model=route.name,
            replica=worst.name,
            since=max(one.since for one in states),
            help=f"berth logs {worst.name}",
        )
    for one in states:
        if one.status in _FAILING or one.status is ReplicaStatus.BACKOFF:
            looping = one.status is ReplicaStatus.BACKOFF
            yield Notice(
                kind=Kind.REPLICA_LOOPING if looping else Kind.REPLICA_FAILED,
                text=f"{one.name} {'has failed and starts again' if looping else f'is {one.status}'}"
                f"{f': {one.reason}' if one.reason else ''}",
                model=route.name,
                replica=one.name,
                since=one.since,
                help=f"berth load {route.name}" if one.status is ReplicaStatus.FAILED else f"berth logs {one.name}",
            )


def of_requests(model: str, tally: Tally) -> Iterator[Notice]:
    minutes, total = f"{RECENT_S / 60:.0f} min", tally.requests
    if tally.errors >= _LEAST and tally.errors > _ERROR_SHARE * total:
        text = f"{tally.errors} of {total} requests of {model} failed in {minutes}"
        yield Notice(kind=Kind.ERRORS, text=text, model=model, help="berth logs")
    if tally.fallbacks >= _LEAST and tally.fallbacks > _FALLBACK_SHARE * total:
        text = f"{tally.fallbacks} of {total} requests of {model} needed another engine in {minutes}"
        yield Notice(kind=Kind.FALLBACKS, text=text, model=model, help="berth logs")
    if tally.queue_full:
        text = f"{tally.queue_full} requests of {model} were rejected in {minutes}, because its queue was full"
        yield Notice(kind=Kind.QUEUE_FULL, text=text, model=model, help="BERTH_QUEUE_SIZE")
    if tally.waited_long > _LONG_WAIT_SHARE * total:
        text = f"{tally.waited_long} of {total} requests of {model} waited more than {LONG_WAIT_S:g} s in {minutes}"
        yield Notice(kind=Kind.WAITING_LONG, text=text, model=model, help="another GPU, or fewer clients")
