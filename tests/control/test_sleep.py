"""What engines are told, over a socket, and what is made of their answers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from berth.control.probes import Prober
from berth.control.records import Timing
from berth.control.sleep import Slumber
from berth.engines.sglang import SglangEngine
from berth.engines.vllm import VllmEngine
from berth.plan import MemoryEstimate, Probe, Replica, Sleep
from tests.fakes.plans import make_replica
from tests.sim.harness import get, running, send_request

pytestmark = pytest.mark.anyio
GIB = 2**30
WEIGHTS = MemoryEstimate(weights_bytes=10 * GIB, kv_bytes_per_token=1, kv_bytes=2, overhead_bytes=4, largest_context=8)
QUICK = Timing(release_timeout_s=0.2, release_poll_s=0.01)
ENGINES: dict[str, Sleep | None] = {"vllm": VllmEngine().sleep, "sglang": SglangEngine().sleep}


def replica(port: int, dialect: str) -> Replica:
    path = "/ready" if dialect == "sglang" else "/health"
    return replace(make_replica(launch=None, port=port), gpus=(0,), memory=WEIGHTS, ready=Probe(path=path))


def calls(dialect: str, **changes: object) -> Sleep:
    found = ENGINES[dialect]
    assert found
    return replace(found, **changes)  # type: ignore[arg-type] # any field


async def told(port: int, dialect: str, what: str, used: list[int] | None = None, **changes: object) -> str:
    """`used`: the GiB in use at each look; the last one stays. None: no GPU can be seen."""
    looks: Iterator[int] = iter(used or ())
    last = [0]

    def look(_: Replica) -> dict[int, int]:
        last[0] = next(looks, last[0])
        return {} if used is None else {0: last[0] * GIB}

    async with Prober() as prober:
        slumber = Slumber(prober, look, QUICK)
        call = slumber.put_to_sleep if what == "sleep" else slumber.wake
        return await call(replica(port, dialect), calls(dialect, **changes))


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_each_engine_sleeps_and_wakes_by_its_own_calls(dialect: str) -> None:
    with running(dialect, can_sleep=True) as server:
        assert await told(server.port, dialect, "sleep") == ""
        assert not server.engine.awake.is_set()
        assert await told(server.port, dialect, "wake") == ""
        assert server.engine.awake.is_set()


@pytest.mark.parametrize(
    ("used", "error"),
    [
        ([70, 5], ""),
        ([70, 40, 20, 5], ""),
        ([70, 66], "it says that it sleeps, and keeps the memory of GPU 0"),
        ([70], "it says that it sleeps, and keeps the memory of GPU 0"),
    ],
)
async def test_an_engine_that_keeps_its_memory_does_not_sleep(used: list[int], error: str) -> None:
    with running("sglang", can_sleep=True) as server:
        assert await told(server.port, "sglang", "sleep", used) == error


@pytest.mark.parametrize(
    ("dialect", "fault", "what", "error"),
    [
        ("vllm", "sleep-fails", "sleep", "/sleep?level=1 answered 500"),
        ("sglang", "sleep-fails", "sleep", "/release_memory_occupation answered 500"),
        ("vllm", "wake-fails", "wake", "/wake_up answered 500"),
        ("sglang", "wake-hangs", "wake", "/resume_memory_occupation did not answer within 0.2 s"),
    ],
)
async def test_what_went_wrong_is_told(dialect: str, fault: str, what: str, error: str) -> None:
    with running(dialect, fault, can_sleep=True) as server:
        if what == "wake" and fault == "wake-fails":
            send_request(server.port, "/sleep?level=1", {})
        assert await told(server.port, dialect, what, wake_timeout_s=0.2) == error


async def test_an_engine_that_does_not_know_the_call_is_no_sleeper() -> None:
    with running("vllm") as server:
        assert await told(server.port, "vllm", "sleep") == "/sleep?level=1 answered 404"


async def test_vllms_word_counts_for_more_than_its_answer() -> None:
    with running("vllm", can_sleep=True) as server:
        never = await told(server.port, "vllm", "sleep", sleep_path="/wake_up")
        assert never == "/wake_up was answered, and /is_sleeping says that it does not sleep"
        still = await told(server.port, "vllm", "wake", wake_path="/sleep")
        assert still == "/sleep was answered, and /is_sleeping does not say that it is awake"


async def test_one_that_is_awake_and_not_well_is_not_woken() -> None:
    with running("sglang", "unhealthy", can_sleep=True) as server:
        assert await told(server.port, "sglang", "sleep") == ""
        assert await told(server.port, "sglang", "wake") == "/ready answered 503"


@pytest.mark.parametrize(
    ("path", "said"), [("/is_sleeping", False), ("/health", None), ("/version", None), ("/no", None)]
)
async def test_who_does_not_say_whether_it_sleeps_says_nothing(path: str, said: bool | None) -> None:
    with running("vllm", can_sleep=True) as server:
        async with Prober() as prober:
            assert await prober.sleeps(replica(server.port, "vllm"), path) is said
        assert get(server.port, "/is_sleeping").json == {"is_sleeping": False}
