"""Engines' own pages about their load, in words common to all."""

import orjson
import pytest

from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sim import metrics
from berth.sim.dialect import EngineStats
from berth.state import EngineLoad
from tests.fakes.cpu_time import cpu_s
from tests.fakes.recordings import recording

BUSY = EngineStats(started=0.0, running=2, waiting=3, kv_usage=0.25, prompt_tokens=40, generation_tokens=50, requests=7)
LOADS = orjson.dumps({"loads": [metrics.sglang_load(BUSY, 800, 8)]})
ITERATION = metrics.trtllm_iteration(BUSY, 5)
SGLANG_BUSY = recording("sglang/metrics/busy").answer


def load_of(dialect: str, pages: dict[str, bytes], before: EngineLoad | None = None) -> EngineLoad | None:
    return DIALECTS[DialectName(dialect)].load(pages, before)


@pytest.mark.parametrize(
    ("dialect", "pages", "expected"),
    [
        (
            "vllm",
            {"/metrics": recording("vllm/metrics/after_traffic").answer},
            EngineLoad(
                running=0,
                waiting=0,
                kv_usage=0.0,
                prompt_tokens=5929,
                cached_tokens=2944,
                generation_tokens=1285,
                preemptions=0,
                kv_block_tokens=128,
                kv_blocks=256,
            ),
        ),
        (
            "sglang",
            {"/metrics": SGLANG_BUSY, "/v1/loads": recording("sglang/metrics/loads").answer},
            EngineLoad(
                running=0,  # the schedulers answer at once; the page shows the last line of the log
                waiting=0,
                kv_usage=0.0,
                prompt_tokens=25,
                generation_tokens=8,
                kv_block_tokens=1,
                kv_blocks=8192,
            ),
        ),
        (
            "sglang",
            {"/metrics": recording("sglang/metrics/after").answer},
            EngineLoad(
                running=0,
                waiting=0,
                kv_usage=0.0,
                prompt_tokens=66,
                cached_tokens=7,
                generation_tokens=608,
                kv_block_tokens=1,
                kv_blocks=8192,
            ),
        ),
        ("sglang", {"/v1/loads": LOADS}, EngineLoad(running=2, waiting=3, kv_usage=0.25)),
        (
            "vllm",
            {"/metrics": metrics.vllm(BUSY, 'm"}\\x', 800).encode()},
            EngineLoad(
                running=2,
                waiting=3,
                kv_usage=0.25,
                prompt_tokens=40,
                cached_tokens=0,
                generation_tokens=50,
                preemptions=0,
                kv_block_tokens=16,
                kv_blocks=50,
            ),
        ),
        (
            "trtllm",
            {"/metrics": orjson.dumps([{}, ITERATION])},
            EngineLoad(running=2, waiting=3, kv_usage=0.25, cached_tokens=0, kv_block_tokens=32, kv_blocks=1000),
        ),
        (
            "llamacpp",
            {"/metrics": b"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 4\n"},
            EngineLoad(running=4),
        ),
        ("tei", {"/metrics": b"te_queue_size 3\n"}, EngineLoad(waiting=3)),
        ("openai", {}, None),
    ],
)
def test_reads_the_load_of_each_engine(dialect: str, pages: dict[str, bytes], expected: EngineLoad | None) -> None:
    assert load_of(dialect, pages) == expected


def test_busy_sglang_without_its_list_of_loads() -> None:
    found = load_of("sglang", {"/metrics": SGLANG_BUSY})
    assert found
    assert (found.running, found.waiting, found.kv_usage) == (1, 1, 0.03)


def test_copies_are_summed_and_ranks_of_one_copy_are_not() -> None:
    vllm = b"".join(
        b'vllm:num_requests_running{engine="%d"} %d.0 1700000000000\nvllm:kv_cache_usage_perc{engine="%d"} 0.%d\n'
        % (copy, copy + 1, copy, copy + 3)
        for copy in range(3)
    )
    ranks = b"".join(b'sglang:num_running_reqs{dp_rank="%d",tp_rank="%d"} 5\n' % (n // 2, n % 2) for n in range(4))
    assert load_of("vllm", {"/metrics": vllm}) == EngineLoad(running=6, kv_usage=0.5)
    assert load_of("sglang", {"/metrics": ranks}) == EngineLoad(running=10)


def test_idle_tensorrt_llm_has_no_iterations() -> None:
    before = EngineLoad(running=2, waiting=3, kv_usage=0.25, cached_tokens=0)
    assert load_of("trtllm", {"/metrics": b"[]"}, before) == EngineLoad(
        running=0, waiting=0, kv_usage=0.25, cached_tokens=0
    )
    assert load_of("trtllm", {"/metrics": b"[]"}) is None, "its statistics may be off"


@pytest.mark.parametrize(
    "page",
    [
        *(b"", b"null", b"3", b"[3]", b"{}", b'{"loads": 3}', b'{"loads": [3, {"num_running_reqs": "x"}]}', b"\xff{"),
        *(b'[{"kvCacheStats": 3}]', b"<html>vllm:num_requests_running</html>", b"[" * 100_000),
        *(b"vllm:num_requests_running NaN\n", b"vllm:num_requests_running -1\n", b"vllm:num_requests_running 1e300\n"),
        *(
            b"vllm:num_requests_running_total 5\n",
            b"x vllm:num_requests_running 5\n",
            b"vllm:num_requests_running\n5\n",
        ),
        *(b"sglang:num_running_reqs{ +Inf\n", b"te_queue_size_bucket 1\n"),
    ],
)
def test_what_is_no_load_is_left_out(page: bytes) -> None:
    for dialect in DIALECTS:
        assert load_of(dialect, {"/metrics": page, "/v1/loads": page}) is None


@pytest.mark.unmeasured  # it measures time
def test_time_grows_with_the_page_and_no_faster() -> None:
    line = (
        b'vllm:num_requests_running{a="' + b'},block_size="1",tp_rank="' * 40 + b'"} 1\nvllm:cache_config_info{,,,,\n'
    )

    def seconds(lines: int) -> float:
        page = line * lines + b'vllm:num_requests_running{a="}' * lines
        return cpu_s(lambda: load_of("vllm", {"/metrics": page}))

    assert seconds(2000) < 2.5 * seconds(1000) + 0.02
