"""The lines in which engines say what memory they take, and what is kept of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from berth.control.logs.load_progress import Tracker, advance
from berth.control.logs.start_memory import StartMemory, after_line, measurement
from berth.plan import EngineName, Launch, MeasuredAs, Plan
from berth.records.measured import Measurement
from tests.fakes.plans import GPU_PLAN

GIB = 2**30
OF = MeasuredAs(engine=EngineName.VLLM, version="0.33.0", gpu_kind="Fake 80GB, 9.0", gpus=1, model="m", arguments="")
VLLM = (
    "(EngineCore) INFO 11-29 10:00:00 [gpu_model_runner.py:5150] Model loading took 15.27 GiB memory and 3.2 seconds",
    "(EngineCore) INFO 11-29 10:00:09 [gpu_worker.py:760] Available KV cache memory: 53.5 GiB",
    "GPU KV cache size: 389,568 tokens, Maximum concurrency for 40,960 tokens per request: 9.51x",
    "(EngineCore) INFO 11-29 10:00:15 [gpu_model_runner.py:6582] Graph capturing finished in 5 secs, took 0.55 GiB",
)
SGLANG = (
    "[10:00:00] Load weight begin. avail mem=79.00 GB",
    "[10:00:05] Load weight end. elapsed=3.20 s, type=Qwen3, avail mem=63.50 GB, mem usage=15.50 GB.",
    "[10:00:06] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 360000, K size: 25.00 GB, V size: 25.00 GB",
    "[10:00:06] Memory pool end. avail mem=13.50 GB",
    "[10:00:09] Capture target decode CUDA graph end. elapsed=3.0 s, mem usage=1.50 GB, avail mem=12.00 GB.",
    "max_total_num_tokens=360000, max_running_requests=2048, context_len=40960, available_gpu_mem=12.00 GB",
)


def plan(engine: EngineName, *args: str, **fields: Any) -> Plan:
    share = ("--gpu-memory-utilization", "0.900") if engine is EngineName.VLLM else ()
    given: dict[str, Any] = {
        "engine": engine,
        "launch": Launch(argv=("x", *share, *args)),
        "memory_fraction": 0.9,
        "measured_as": replace(OF, engine=engine),
    }
    return replace(GPU_PLAN, replicas=(replace(GPU_PLAN.replicas[0], **(given | fields)),))


def kept(lines: Sequence[str], given: Plan) -> Measurement | None:
    tracker = Tracker()
    for line in lines:
        tracker = advance(tracker, line)
    return measurement(tracker.memory, given.replicas[0], given, now=7)


def test_vllm_takes_what_its_cache_leaves_of_its_share() -> None:
    found = kept(VLLM, plan(EngineName.VLLM))

    assert found is not None
    assert (found.of, found.at, found.kv_tokens, found.context) == (OF, 7, 389_568, 40_960)
    sizes = (found.weights_bytes, found.kv_bytes, found.graphs_bytes, found.overhead_bytes)
    assert sizes == pytest.approx([size * GIB for size in (15.27, 53.5, 0.55, 72 - 15.27 - 53.5)], abs=1)


def test_sglang_takes_what_is_not_free_when_it_is_ready() -> None:
    found = kept(SGLANG, plan(EngineName.SGLANG))

    assert found is not None
    sizes = (found.weights_bytes, found.kv_bytes, found.overhead_bytes)
    assert sizes == tuple(int(size * GIB) for size in (15.5, 50, 80 - 12 - 15.5 - 50))
    assert (found.kv_tokens, found.context) == (360_000, 40_960)


def test_of_several_gpus_the_fullest_counts() -> None:
    other = [line.replace("15.27", "15.40").replace("53.5", "52.5") for line in VLLM]

    assert kept([*VLLM, *other], plan(EngineName.VLLM)) == kept([*other, *VLLM], plan(EngineName.VLLM))
    found = kept([*VLLM, *other], plan(EngineName.VLLM))
    assert found is not None
    assert (found.weights_bytes, found.kv_bytes) == (int(15.4 * GIB), int(52.5 * GIB))


@pytest.mark.parametrize("missing", range(3))
def test_nothing_is_kept_of_an_incomplete_log(missing: int) -> None:
    lines = [line for number, line in enumerate(VLLM) if number != missing]

    assert kept(lines, plan(EngineName.VLLM)) is None
    assert kept(SGLANG[:-1], plan(EngineName.SGLANG)) is None


@pytest.mark.parametrize(
    "given",
    [
        plan(EngineName.VLLM, measured_as=None),
        plan(EngineName.VLLM, gpus=()),
        plan(EngineName.VLLM, "--kv-cache-memory-bytes", "1G"),
        plan(EngineName.VLLM, "--gpu-memory-utilization", "0.5"),
        plan(EngineName.VLLM, "--gpu-memory-utilization", "much"),
        plan(EngineName.VLLM, launch=None),
    ],
)
def test_nothing_is_kept_where_the_figures_mean_something_else(given: Plan) -> None:
    assert kept(VLLM, given) is None


def test_neighbours_spoil_what_sglang_says() -> None:
    assert kept(SGLANG, plan(EngineName.SGLANG, memory_fraction=0.4)) is None


@pytest.mark.parametrize(
    "line",
    [
        "Available KV cache memory: 1.2.3 GiB",
        "Available KV cache memory: many GiB",
        "Model loading took " + "9" * 2000 + " GiB memory",
        "hello",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    memory = StartMemory()

    assert after_line(memory, line) is memory
