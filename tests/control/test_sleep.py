"""Sleep mode of simulated engines, over a socket."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from berth.control.decisions.records import Timing
from berth.control.hangs.canary import Canary
from berth.control.probes import Prober
from berth.control.sleep import SleepMode
from berth.engines.sglang import SglangEngine
from berth.engines.vllm import VllmEngine
from berth.plan import DialectName, MemoryEstimate, Probe, Replica, Sleep
from berth.records.starts import How
from tests.fakes.plans import make_replica
from tests.sim.harness import Client, get, running, send_request

pytestmark = pytest.mark.anyio
GIB = 2**30
WEIGHTS = MemoryEstimate(weights_bytes=10 * GIB, kv_bytes_per_token=1, kv_bytes=2, overhead_bytes=4, largest_context=8)
QUICK = Timing(release_timeout_s=0.2, release_poll_s=0.01)
ENGINES: dict[str, Sleep | None] = {"vllm": VllmEngine().sleep, "sglang": SglangEngine().sleep}


def replica(port: int, dialect: str) -> Replica:
    path = "/ready" if dialect == "sglang" else "/health"
    return replace(
        make_replica(launch=None, port=port),
        dialect=DialectName(dialect),
        gpus=(0,),
        memory=WEIGHTS,
        ready=Probe(path=path),
    )


def calls(dialect: str, **changes: object) -> Sleep:
    found = ENGINES[dialect]
    assert found
    return replace(found, **changes)  # type: ignore[arg-type] # any field


async def call_sleep_mode(port: int, dialect: str, what: str, used: list[int] | None = None, **changes: object) -> str:
    """`used`: the GiB in use at each reading; the last one is repeated. None: no GPU is visible."""
    readings: Iterator[int] = iter(used or ())
    last = [0]

    def read(_: Replica) -> dict[int, int]:
        last[0] = next(readings, last[0])
        return {} if used is None else {0: last[0] * GIB}

    async with Prober() as prober:
        sleep_mode = SleepMode(prober, Canary(prober, 1.0), read, QUICK)
        if what == "sleep":
            return await sleep_mode.put_to_sleep(replica(port, dialect), calls(dialect, **changes), How.WAKE_1)
        return await sleep_mode.wake(replica(port, dialect), calls(dialect, **changes), None)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_each_engine_sleeps_and_wakes_by_its_own_calls(dialect: str) -> None:
    with running(dialect, can_sleep=True) as server:
        assert await call_sleep_mode(server.port, dialect, "sleep") == ""
        assert not server.engine.awake.is_set()
        assert await call_sleep_mode(server.port, dialect, "wake") == ""
        assert server.engine.awake.is_set()


@pytest.mark.parametrize(
    ("used", "error"),
    [
        ([70, 5], ""),
        ([70, 40, 20, 5], ""),
        ([70, 66], "/release_memory_occupation succeeded, but the memory of GPU 0 is not released"),
        ([70], "/release_memory_occupation succeeded, but the memory of GPU 0 is not released"),
    ],
)
async def test_sleep_fails_unless_the_gpu_memory_is_released(used: list[int], error: str) -> None:
    with running("sglang", can_sleep=True) as server:
        assert await call_sleep_mode(server.port, "sglang", "sleep", used) == error


@pytest.mark.parametrize(
    ("dialect", "fault", "what", "error"),
    [
        ("vllm", "sleep-fails", "sleep", "/sleep?level=1 returned 500"),
        ("sglang", "sleep-fails", "sleep", "/release_memory_occupation returned 500"),
        ("vllm", "wake-fails", "wake", "/wake_up?tags=weights returned 500"),
        ("vllm", "sleep-hangs", "sleep", "/sleep?level=1 timed out after 0.2 s"),
        ("sglang", "wake-hangs", "wake", "/resume_memory_occupation timed out after 0.2 s"),
    ],
)
async def test_returns_the_error_of_the_engine(dialect: str, fault: str, what: str, error: str) -> None:
    with running(dialect, fault, can_sleep=True) as server:
        if what == "wake" and fault == "wake-fails":
            send_request(server.port, "/sleep?level=1", {})
        assert (
            await call_sleep_mode(
                server.port, dialect, what, wake_timeout_s=0.2, sleep_timeout_s=0.2 if fault == "sleep-hangs" else 30.0
            )
            == error
        )


async def test_waking_with_damaged_weights_fails() -> None:
    with running("sglang", "bad-weights", can_sleep=True, names=("chat",)) as server:
        assert await call_sleep_mode(server.port, "sglang", "sleep") == ""
        error = await call_sleep_mode(server.port, "sglang", "wake")
    assert error == "its first answer failed: the log probability of its most probable token is None"


async def test_waking_an_engine_that_generates_nothing_fails() -> None:
    with running("vllm", "wedged", can_sleep=True, names=("chat",)) as server:
        assert await call_sleep_mode(server.port, "vllm", "sleep") == ""
        assert await call_sleep_mode(server.port, "vllm", "wake") == (
            "its first answer failed: /v1/completions timed out after 1 s"
        )


async def test_sleep_fails_for_an_engine_without_sleep_mode() -> None:
    with running("vllm") as server:
        assert await call_sleep_mode(server.port, "vllm", "sleep") == "/sleep?level=1 returned 404"


async def test_verifies_the_result_with_is_sleeping() -> None:
    with running("vllm", can_sleep=True) as server:
        never = await call_sleep_mode(server.port, "vllm", "sleep", sleep_path="/wake_up")
        assert never == "/wake_up succeeded, but /is_sleeping does not report that it sleeps"
        still = await call_sleep_mode(server.port, "vllm", "wake", wake_path="/sleep", reload=())
        assert still == "/sleep succeeded, but /is_sleeping does not report that it is awake"


async def test_waking_an_unhealthy_engine_fails() -> None:
    with running("sglang", "unhealthy", can_sleep=True) as server:
        assert await call_sleep_mode(server.port, "sglang", "sleep") == ""
        assert await call_sleep_mode(server.port, "sglang", "wake") == "/ready returned 503"


@pytest.mark.parametrize(
    ("path", "expected"), [("/is_sleeping", False), ("/health", None), ("/version", None), ("/no", None)]
)
async def test_is_sleeping_is_unknown_without_such_a_response(path: str, expected: bool | None) -> None:
    with running("vllm", can_sleep=True) as server:
        async with Prober() as prober:
            assert await prober.is_sleeping(replica(server.port, "vllm"), path) is expected
        assert get(server.port, "/is_sleeping").json == {"is_sleeping": False}


async def cycle(port: int, dialect: str, how: How, wakes: How | None, **changes: object) -> tuple[str, str]:
    """Sleeps and wakes once."""
    async with Prober() as prober:
        sleep_mode = SleepMode(prober, Canary(prober, 1.0), lambda _: {}, QUICK)
        slept = await sleep_mode.put_to_sleep(replica(port, dialect), calls(dialect, **changes), how)
        return slept, slept or await sleep_mode.wake(replica(port, dialect), calls(dialect, **changes), wakes)


@pytest.mark.parametrize(
    ("how", "wakes"),
    [(How.WAKE_1, How.WAKE_1), (How.WAKE_2, How.WAKE_2), (How.WAKE_1, None), (How.WAKE_2, None)],
)
async def test_vllm_wakes_with_its_weights_however_it_slept(how: How, wakes: How | None) -> None:
    with running("vllm", can_sleep=True, names=("chat",)) as server:
        assert await cycle(server.port, "vllm", how, wakes) == ("", "")
        assert not server.engine.lost_weights


async def test_wake_without_the_weights_fails_at_the_first_answer() -> None:
    with running("vllm", can_sleep=True, names=("chat",)) as server:
        slept, woken = await cycle(server.port, "vllm", How.WAKE_2, How.WAKE_2, reload=())
    assert (slept, woken.startswith("its first answer failed: /v1/completions returned 500")) == ("", True)


async def test_next_control_reads_the_weights_in_any_case() -> None:
    with running("vllm", can_sleep=True, names=("chat",)) as server:
        assert await call_sleep_mode(server.port, "vllm", "sleep") == ""
        assert server.engine.sleeping_tags == {"weights", "kv_cache"}
        assert await call_sleep_mode(server.port, "vllm", "wake", light=()) == ""  # of another SleepMode
        assert server.engine.awake.is_set()


async def test_requests_that_come_while_sglang_sleeps_wait() -> None:
    with running("sglang", can_sleep=True, names=("chat",)) as server:
        assert await call_sleep_mode(server.port, "sglang", "sleep") == ""
        with Client(server.port) as client:
            client.send("POST", "/v1/completions", {"model": "chat", "prompt": ".", "max_tokens": 1})
            assert client.read(silence_s=0.1).end == "silent"
            assert await call_sleep_mode(server.port, "sglang", "wake") == ""
            assert client.read().status == 200
