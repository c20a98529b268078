"""What needs attention, and what does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.ipc.capture import Capture
from berth.ipc.journal import Tally
from berth.notices import Kind, notices, of_requests
from berth.plan import ApiKey, Gpu, GpuInventory, OpenTo, Plan
from berth.plan.replica import DriverState
from berth.state import FULL_BYTES, GpuState, HostState, ReplicaState, ReplicaStatus, State
from tests.fakes.router import make_plan, replica, replica_state

S = ReplicaStatus
PLAN = make_plan("/run", [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:2")])
NOW = 1000.0


def state(a: ReplicaStatus, b: ReplicaStatus, *, published_at: float = NOW, **fields: Any) -> State:
    of_a = {name: value for name, value in fields.items() if name != "run_dir_free_bytes"}
    others = {name: value for name, value in fields.items() if name == "run_dir_free_bytes"}
    replicas = (replica_state("chat-a", a, **of_a), replica_state("chat-b", b))
    return State(sequence=1, published_at=published_at, control_pid=1, replicas=replicas, **others)


def kinds(plan: Plan, now_state: State | None, tally: Tally | None = None) -> list[str]:
    return [notice.kind for notice in notices(plan, now_state, {"chat": tally} if tally else {}, now=NOW)]


@pytest.mark.parametrize(
    ("a", "b", "fields", "expected"),
    [
        (S.READY, S.READY, {}, []),
        (S.READY, S.STANDBY, {}, []),
        (S.READY, S.ASLEEP, {}, []),
        (S.STARTING, S.STANDBY, {}, []),
        (S.WAITING, S.WAITING, {}, []),
        (S.STARTING, S.STANDBY, {"restarts": 1}, [Kind.MODEL_DOWN]),
        (S.UNLOADED, S.STANDBY, {"requested": "unloaded"}, []),
        (S.ASLEEP, S.STANDBY, {"requested": "asleep"}, []),
        (S.DRAINING, S.STANDBY, {"requested": "unloaded"}, []),
        (S.FAILED, S.READY, {}, [Kind.REPLICA_FAILED]),
        (S.UNHEALTHY, S.READY, {}, [Kind.REPLICA_FAILED]),
        (S.BACKOFF, S.READY, {}, [Kind.REPLICA_LOOPING]),
        (S.FAILED, S.STARTING, {}, [Kind.REPLICA_FAILED]),
        (S.FAILED, S.BACKOFF, {}, [Kind.MODEL_DOWN, Kind.REPLICA_LOOPING]),  # the first is in the model's own
        (S.FAILED, S.FAILED, {}, [Kind.MODEL_DOWN, Kind.REPLICA_FAILED]),
        (S.STOPPED, S.STOPPED, {}, [Kind.MODEL_DOWN]),
    ],
)
def test_of_replicas(a: ReplicaStatus, b: ReplicaStatus, fields: dict[str, Any], expected: list[str]) -> None:
    assert kinds(PLAN, state(a, b, **fields)) == expected


def test_says_why_since_when_and_what_helps() -> None:
    (down, other) = notices(
        PLAN,
        State(
            sequence=1,
            published_at=NOW,
            control_pid=1,
            replicas=(
                ReplicaState(name="chat-a", status=S.FAILED, since=900, reason="out of memory"),
                ReplicaState(name="chat-b", status=S.BACKOFF, since=950, reason="exit code 1"),
            ),
        ),
        {},
        now=NOW,
    )
    assert down.text == "no engine serves chat: chat-b is backoff, exit code 1"
    assert (down.model, down.replica, down.since, down.help) == ("chat", "chat-b", 950, "berth logs chat-b")
    assert (other.text, other.help) == ("chat-a is failed: out of memory", "berth load chat")


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally(), []),
        (Tally(requests=100, errors=5), []),
        (Tally(requests=100, errors=6), [Kind.ERRORS]),
        (Tally(requests=4, errors=4), []),
        (Tally(requests=100, fallbacks=5), [Kind.FALLBACKS]),
        (Tally(requests=1000, fallbacks=10), []),
        (Tally(requests=100, queue_full=1), [Kind.QUEUE_FULL]),
        (Tally(requests=100, waited_long=5), []),
        (Tally(requests=100, waited_long=6), [Kind.WAITING_LONG]),
        (Tally(requests=10, errors=9, fallbacks=9, queue_full=1), [Kind.ERRORS, Kind.FALLBACKS, Kind.QUEUE_FULL]),
    ],
)
def test_of_requests(tally: Tally, expected: list[str]) -> None:
    assert [notice.kind for notice in of_requests("chat", tally)] == expected
    assert kinds(PLAN, state(S.READY, S.READY), tally) == expected


def test_of_control() -> None:
    assert kinds(PLAN, state(S.READY, S.READY, published_at=NOW - 9)) == []
    assert kinds(PLAN, state(S.READY, S.READY, published_at=NOW - 11)) == [Kind.CONTROL_SILENT]
    assert kinds(replace(PLAN, created=int(NOW) - 9), None) == []
    assert kinds(replace(PLAN, created=int(NOW) - 30), None) == [Kind.CONTROL_SILENT]


def test_of_the_run_directory() -> None:
    assert kinds(PLAN, state(S.READY, S.READY, run_dir_free_bytes=FULL_BYTES)) == []
    assert kinds(PLAN, state(S.READY, S.READY, run_dir_free_bytes=FULL_BYTES - 1)) == [Kind.DISK_LOW]


@pytest.mark.parametrize(
    ("host", "open_access", "open_to", "words"),
    [
        ("0.0.0.0", True, OpenTo.PRIVATE, "private networks"),
        ("0.0.0.0", True, OpenTo.ALL, "open to everyone"),
        ("0.0.0.0", False, OpenTo.PRIVATE, ""),
        ("127.0.0.2", True, OpenTo.ALL, ""),
        ("localhost", True, OpenTo.ALL, ""),
        ("::1", True, OpenTo.ALL, ""),
    ],
)
def test_of_access(host: str, open_access: bool, open_to: OpenTo, words: str) -> None:
    plan = replace(PLAN, listen=replace(PLAN.listen, host=host), open_access=open_access, open_to=open_to)
    found = notices(plan, state(S.READY, S.READY), {}, now=NOW)
    assert [notice.kind for notice in found] == ([Kind.OPEN_ACCESS] if words else [])
    assert all(words in notice.text for notice in found)


def test_a_capture_is_noticed_while_it_lasts() -> None:
    capture = Capture(ends=NOW + 1, key="ci")
    current = replace(state(S.READY, S.READY), capture=capture)
    (notice,) = notices(PLAN, current, {}, now=NOW)
    assert (notice.kind, notice.help) == (Kind.CAPTURE_ON, "berth capture off")
    assert notice.text == "requests are being captured (all key=ci max=200)"
    assert notices(PLAN, current, {}, now=NOW + 1) == []


GIB = 2**30
DAY_S = 86_400.0
GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="H200",
    memory_total_bytes=140 * GIB,
    memory_free_bytes=138 * GIB,
    compute_capability="9.0",
)
ON_GPU = replace(
    PLAN,
    created=int(NOW),
    inventory=GpuInventory(state=DriverState.OK, gpus=(GPU,)),
    listen=replace(PLAN.listen, host="127.0.0.1"),
)
QUIET = GpuState(index=0, memory_used_bytes=2 * GIB, memory_total_bytes=140 * GIB, temperature_celsius=91)


def gpus(**fields: Any) -> dict[str, Any]:
    return {"gpus": (replace(QUIET, **fields),)}


def host(**fields: Any) -> dict[str, Any]:
    return {"host": HostState(**fields)}


def seen(fields: dict[str, Any], keys: tuple[ApiKey, ...] = (), charged: float = 0.0, plan: Plan = ON_GPU) -> list[str]:
    """What needs attention: its kind and the text. There is always something to do."""
    replicas = (replica_state("chat-a", S.READY), replica_state("chat-b", S.READY))
    found = State(sequence=1, published_at=NOW, control_pid=1, replicas=replicas, **fields)
    noticed = notices(plan, found, {}, now=NOW, keys=keys, charged={key.slot: charged for key in keys})
    assert all(one.help for one in noticed)
    return [f"{one.kind}: {one.text}" for one in noticed]


@pytest.mark.parametrize(
    ("bad", "good", "expected"),
    [
        (
            {"gpus_gone": {0: "GPU is lost"}},
            gpus(),
            "gpu_gone: GPU 0 does not answer: GPU is lost",
        ),
        (
            gpus(xid=79, xid_at=NOW - 3599),
            gpus(xid=79, xid_at=NOW - 3600),
            "gpu_errors: GPU 0 reported the error Xid 79",
        ),
        (
            gpus(ecc_errors=2),
            gpus(),
            "gpu_errors: GPU 0 has had 2 uncorrected errors of its memory since its driver was loaded",
        ),
        (
            gpus(slowed="heat", slowed_since=NOW - 61),
            gpus(slowed="heat", slowed_since=NOW - 60),
            "gpu_slowed: GPU 0 is slowed down: it is too hot (91 °C)",
        ),
        (
            gpus(slowed="power", slowed_since=NOW - 61),
            gpus(),
            "gpu_slowed: GPU 0 is slowed down: its supply has too little power",
        ),
        (
            gpus(memory_used_bytes=4 * GIB),
            gpus(memory_used_bytes=3 * GIB),
            "gpu_memory_foreign: GPU 0: 4.0 GiB are in use by other programs, 2.0 GiB at the start",
        ),
        (
            host(data_dir_free_bytes=9 * GIB, data_dir_total_bytes=100 * GIB),
            host(data_dir_free_bytes=10 * GIB, data_dir_total_bytes=100 * GIB),
            "disk_low: /data has 9.0 GiB free: models and usage may not be written",
        ),
        (
            host(data_dir_free_bytes=19 * GIB, data_dir_total_bytes=1000 * GIB),
            host(data_dir_free_bytes=20 * GIB, data_dir_total_bytes=1000 * GIB),
            "disk_low: /data has 19.0 GiB free: models and usage may not be written",
        ),
        (
            host(memory_left_bytes=4 * GIB, memory_limit_bytes=100 * GIB),
            host(memory_left_bytes=5 * GIB, memory_limit_bytes=100 * GIB),
            "memory_low: 4.0 GiB of the container's 100.0 GiB of memory are left: the kernel may end an engine",
        ),
        (
            host(tls_ends=NOW + 5 * DAY_S),
            host(tls_ends=NOW + 14 * DAY_S),
            "tls_ends: the TLS certificate ends in 5 days, on 1970-01-06",
        ),
        (
            host(tls_ends=NOW - 1),
            host(),
            "tls_ends: the TLS certificate has ended on 1970-01-01",
        ),
        (
            host(tls_problem="certificate has expired"),
            host(tls_ends=NOW + 90 * DAY_S),
            "tls_ends: clients reject the TLS certificate: certificate has expired",
        ),
        (
            host(tls_unused="BERTH_TLS_KEY='/k.pem': No such file"),
            host(),
            "tls_unchanged: the last change of the TLS certificate has no effect: BERTH_TLS_KEY='/k.pem': No such file",
        ),
        (
            host(keys_problem="line 2: no such field"),
            host(),
            "keys_unchanged: the last change of the API keys has no effect: line 2: no such field",
        ),
    ],
)
def test_of_the_host_and_its_gpus(bad: dict[str, Any], good: dict[str, Any], expected: str) -> None:
    plan = replace(ON_GPU, paths=replace(ON_GPU.paths, data_dir="/data"))
    assert seen(bad, plan=plan) == [expected]
    assert seen(good, plan=plan) == []


@pytest.mark.parametrize(
    ("bad", "good", "charged", "expected"),
    [
        (
            ApiKey(name="ci", slot=1, tokens_per_day=100),
            ApiKey(name="ci", slot=1, tokens_per_day=101),
            80.0,
            "budget_high: the API key ci has used 80 % of its 100 tokens of this day",
        ),
        (
            ApiKey(name="ci", slot=1, tokens_per_day=100, tokens_per_month=1000, month_from=-920.0),
            ApiKey(name="ci", slot=1, tokens_per_day=100, tokens_per_month=1000, day_from=80.0),
            80.0,
            "budget_high: the API key ci has used all of its 1000 tokens of this month",
        ),
        (
            ApiKey(name="ci", slot=1, expires=NOW + 2 * DAY_S),
            ApiKey(name="ci", slot=1, expires=NOW + 14 * DAY_S),
            0.0,
            "key_expires: the API key ci expires in 2 days, on 1970-01-03",
        ),
        (
            ApiKey(name="ci", slot=1, expires=NOW),
            ApiKey(name="ci", slot=1),
            0.0,
            "key_expires: the API key ci has expired on 1970-01-01",
        ),
    ],
)
def test_of_a_key(bad: ApiKey, good: ApiKey, charged: float, expected: str) -> None:
    assert seen(gpus(), (bad,), charged) == [expected]
    assert seen(gpus(), (good,), charged) == []


@pytest.mark.parametrize(
    ("status", "expected_s", "expected"),
    [
        (S.STARTING, 240.0, "slow_start: chat-a has been starting for 9 min; usually it takes 4 min"),
        (S.WAKING, 2.0, "slow_start: chat-a has been waking for 9 min; usually it takes 2 s"),
        (S.STARTING, 480.0, ""),
        (S.STARTING, None, ""),
        (S.READY, 2.0, ""),
    ],
)
def test_of_a_slow_start(status: ReplicaStatus, expected_s: float | None, expected: str) -> None:
    first = ReplicaState(name="chat-a", status=status, since=NOW - 540, expected_s=expected_s)
    replicas = (first, replica_state("chat-b", S.READY))
    found = notices(ON_GPU, State(sequence=1, published_at=NOW, control_pid=1, replicas=replicas), {}, now=NOW)
    assert [f"{one.kind}: {one.text}" for one in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("version", "unknown"), [("1.2.0", True), ("1.2.1", False), ("1.2.1+cu130", False), ("", False)]
)
def test_of_an_engine_version(version: str, unknown: bool) -> None:
    first = replace(ON_GPU.replicas[0], version=version, checked_versions=("1.2.1",) if version else ())
    found = seen(gpus(), plan=replace(ON_GPU, replicas=(first, *ON_GPU.replicas[1:])))
    assert [one.partition(":")[0] for one in found] == (["engine_version"] if unknown else [])


def test_every_kind_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs/events.md").read_text()
    assert [kind for kind in Kind if f"| `{kind}` |" not in text] == []
