"""What needs an operator's attention: a pure function of the Plan, the State, the clients' keys and what the journal
has of late.

/status, /events, `berth status`, `berth top` and the metric `berth_notices` show the same notices, the most urgent
first. When all is well there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from berth.gpu_parts import parts
from berth.ipc.journal import LONG_WAIT_S, Tally
from berth.plan import ApiKey, Gpu, ModelRoute, Plan
from berth.state import GpuState, HostState, ReplicaState, ReplicaStatus, State
from berth.time_left import is_slow, words
from berth.units import GIB, date, size

RECENT_S: Final = 300.0  # of the journal
STALE_S: Final = 10.0  # control publishes every 2 s
_LEAST: Final = 5  # errors or fallbacks: a single one is no trend
_ERROR_SHARE: Final = 0.05
_FALLBACK_SHARE: Final = 0.01
_LONG_WAIT_SHARE: Final = 0.05
_SOON_S: Final = 14 * 86_400.0  # before a certificate or a key ends
_SLOWED_S: Final = 60.0  # a GPU may be hot for a moment
_XID_S: Final = 3600.0  # after the last error
_FOREIGN_BYTES: Final = GIB  # more than others held before Berth started
_DISK_SHARE: Final = 0.1  # free: both a small share and not much
_DISK_BYTES: Final = 20 * GIB
_MEMORY_SHARE: Final = 0.05
_BUDGET_SHARE: Final = 0.8
_LOOPBACK: Final = ("localhost", "::1")
_FAILING: Final = (ReplicaStatus.FAILED, ReplicaStatus.UNHEALTHY)
_COMING: Final = (ReplicaStatus.WAITING, ReplicaStatus.STARTING, ReplicaStatus.WAKING)


class Kind(StrEnum):
    """The most urgent first."""

    MODEL_DOWN = "model_down"
    REPLICA_FAILED = "replica_failed"
    REPLICA_LOOPING = "replica_looping"
    CONTROL_SILENT = "control_silent"
    GPU_GONE = "gpu_gone"
    GPU_ERRORS = "gpu_errors"
    ERRORS = "errors"
    FALLBACKS = "fallbacks"
    QUEUE_FULL = "queue_full"
    WAITING_LONG = "waiting_long"
    GPU_MEMORY_FOREIGN = "gpu_memory_foreign"
    GPU_SLOWED = "gpu_slowed"
    MEMORY_LOW = "memory_low"
    DISK_LOW = "disk_low"
    TLS_ENDS = "tls_ends"
    TLS_UNCHANGED = "tls_unchanged"
    KEYS_UNCHANGED = "keys_unchanged"
    BUDGET_HIGH = "budget_high"
    KEY_EXPIRES = "key_expires"
    OPEN_ACCESS = "open_access"
    CAPTURE_ON = "capture_on"
    ENGINE_VERSION = "engine_version"
    SLOW_START = "slow_start"


_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    kind: Kind
    text: str  # one sentence
    model: str = ""
    replica: str = ""
    key: str = ""  # the client whose key it is
    private: bool = False  # for operators: it may name clients
    since: float | None = None  # Unix seconds; None: unknown
    help: str = ""  # a command, or the variable to set


def notices(
    plan: Plan,
    state: State | None,
    recent: Mapping[str, Tally],
    *,
    now: float,
    keys: Sequence[ApiKey] = (),
    charged: Mapping[int, float] = MappingProxyType({}),
) -> list[Notice]:
    """`recent`: by model, since `now` - RECENT_S. `charged`: what the keys with a budget have used, by slot
    (berth.ipc.key_counters).
    """
    found = [*of_berth(plan, state, now), *of_versions(plan)]
    for key in keys:
        found += of_key(key, charged.get(key.slot, 0.0), now)
    if state is not None:
        found += of_host(plan, state.host, now)
        for gpu in plan.inventory.gpus:
            found += of_gpu(plan, state, gpu, now)
    statuses = {one.name: one for one in state.replicas} if state else {}
    for route in plan.models:
        states = [statuses[name] for name in route.replicas if name in statuses]
        found += of_replicas(route, states, now)
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


def of_host(plan: Plan, host: HostState, now: float) -> Iterator[Notice]:
    free, total, folder = host.data_dir_free_bytes, host.data_dir_total_bytes, plan.paths.data_dir
    if free is not None and free < _DISK_BYTES and free < _DISK_SHARE * (total or 0):
        text = f"{folder} has {size(free)} free: models and usage may not be written"
        yield Notice(kind=Kind.DISK_LOW, text=text, help=f"du -sh {folder}/*, or a larger volume")
    left, limit = host.memory_left_bytes, host.memory_limit_bytes
    if left is not None and limit is not None and left < _MEMORY_SHARE * limit:
        text = f"{size(left)} of the container's {size(limit)} of memory are left: the kernel may end an engine"
        yield Notice(kind=Kind.MEMORY_LOW, text=text, help="a higher memory limit of the container")
    if host.tls_problem or (host.tls_ends is not None and host.tls_ends - now < _SOON_S):
        text = f"clients reject the TLS certificate: {host.tls_problem}"
        if host.tls_ends is not None:
            when = f"has ended on {date(host.tls_ends)}"
            if host.tls_ends > now:
                when = f"ends in {(host.tls_ends - now) / 86_400:.0f} days, on {date(host.tls_ends)}"
            text = f"the TLS certificate {when}"
        yield Notice(kind=Kind.TLS_ENDS, text=text, help="renew the file of BERTH_TLS_CERT")
    if host.tls_unused:
        text = f"the last change of the TLS certificate has no effect: {host.tls_unused}"
        help_ = "correct the files; they are read again by themselves"
        yield Notice(kind=Kind.TLS_UNCHANGED, text=text, private=True, help=help_)
    if host.keys_problem:
        text = f"the last change of the API keys has no effect: {host.keys_problem}"
        help_ = "correct the file; it is read again by itself"
        yield Notice(kind=Kind.KEYS_UNCHANGED, text=text, private=True, help=help_)


def of_gpu(plan: Plan, state: State, gpu: Gpu, now: float) -> Iterator[Notice]:
    index = gpu.index
    if index in state.gpus_gone:
        text = f"GPU {index} does not answer: {state.gpus_gone[index]}"
        yield Notice(kind=Kind.GPU_GONE, text=text, help="dmesg and nvidia-smi on the host; it may need a reboot")
    for one in state.gpus:
        if one.index == index:
            yield from of_health(one, now)
            before = gpu.memory_total_bytes - gpu.memory_free_bytes
            foreign = None if gpu.unified else parts(plan, state, one).foreign
            if foreign is not None and foreign - before > _FOREIGN_BYTES:
                text = f"GPU {index}: {size(foreign)} are in use by other programs, {size(before)} at the start"
                yield Notice(kind=Kind.GPU_MEMORY_FOREIGN, text=text, help="nvidia-smi on the host; end what holds it")


def of_health(gpu: GpuState, now: float) -> Iterator[Notice]:
    name = f"GPU {gpu.index}"
    if gpu.xid and now - gpu.xid_at < _XID_S:
        text = f"{name} reported the error Xid {gpu.xid}"
        yield Notice(kind=Kind.GPU_ERRORS, text=text, since=gpu.xid_at, help="dmesg on the host, NVIDIA's list of Xids")
    if gpu.ecc_errors:
        text = f"{name} has had {gpu.ecc_errors} uncorrected errors of its memory since its driver was loaded"
        yield Notice(kind=Kind.GPU_ERRORS, text=text, help=f"nvidia-smi -q -d ECC -i {gpu.index}; reset or replace it")
    if gpu.slowed and now - gpu.slowed_since > _SLOWED_S:
        degrees = "" if gpu.temperature_celsius is None else f" ({gpu.temperature_celsius} °C)"
        why = f"it is too hot{degrees}" if gpu.slowed == "heat" else "its supply has too little power"
        what = "its cooling" if gpu.slowed == "heat" else "its power supply"
        text = f"{name} is slowed down: {why}"
        yield Notice(kind=Kind.GPU_SLOWED, text=text, since=gpu.slowed_since, help=f"check {what}")


def of_key(key: ApiKey, charged: float, now: float) -> Iterator[Notice]:
    """Of a budget that is nearly used up, the one of the month if both are."""
    for limit, since, period in key.budgets:
        if (used := charged - since) >= _BUDGET_SHARE * limit:
            share = "all" if used >= limit else f"{100 * used / limit:.0f} %"
            text = f"the API key {key.name} has used {share} of its {limit} tokens of this {period}"
            yield Notice(kind=Kind.BUDGET_HIGH, text=text, key=key.name, help=f"tokens_per_{period} in BERTH_API_KEYS")
            break
    if key.expires and key.expires - now < _SOON_S:
        when = f"has expired on {date(key.expires)}"
        if key.expires > now:
            when = f"expires in {(key.expires - now) / 86_400:.0f} days, on {date(key.expires)}"
        text = f"the API key {key.name} {when}"
        yield Notice(kind=Kind.KEY_EXPIRES, text=text, key=key.name, help="expires in BERTH_API_KEYS, or a new key")


def of_versions(plan: Plan) -> Iterator[Notice]:
    for one in plan.replicas:
        if one.checked_versions and one.version.partition("+")[0] not in one.checked_versions:
            checked = " and ".join(one.checked_versions)
            text = f"{one.name} runs {one.engine} {one.version}, and Berth knows the options of {checked}"
            help_ = f"install {one.engine} {one.checked_versions[0]} below BERTH_ENGINE_HOME"
            yield Notice(kind=Kind.ENGINE_VERSION, text=text, model=one.model, replica=one.name, help=help_)


def of_replicas(route: ModelRoute, states: list[ReplicaState], now: float) -> Iterator[Notice]:
    """A model that is loading for the first time is not down; one that was unloaded or put to sleep is as it should.
    The replica that its notice names has none of its own.
    """
    worst: ReplicaState | None = None
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
            help=_help(route, worst),
        )
    for one in states:
        if one.begun and is_slow(one.expected_s, now - one.since):
            usual = words(one.expected_s or 0.0)
            text = f"{one.name} has been {one.status} for {words(now - one.since)}; usually it takes {usual}"
            help_ = f"berth logs {one.name}"
            yield Notice(
                kind=Kind.SLOW_START, text=text, model=route.name, replica=one.name, since=one.since, help=help_
            )
        if one is not worst and (one.status in _FAILING or one.status is ReplicaStatus.BACKOFF):
            looping = one.status is ReplicaStatus.BACKOFF
            yield Notice(
                kind=Kind.REPLICA_LOOPING if looping else Kind.REPLICA_FAILED,
                text=f"{one.name} {'has failed and starts again' if looping else f'is {one.status}'}"
                f"{f': {one.reason}' if one.reason else ''}",
                model=route.name,
                replica=one.name,
                since=one.since,
                help=_help(route, one),
            )


def _help(route: ModelRoute, replica: ReplicaState) -> str:
    return f"berth load {route.name}" if replica.status is ReplicaStatus.FAILED else f"berth logs {replica.name}"


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
