"""Results for tests: a valid full run of two engines, the second one faster."""

from dataclasses import replace
from functools import cache
from typing import Any

from berth.bench import compare
from berth.records.results import (
    BenchResult,
    EngineResult,
    Likeness,
    Point,
    Quality,
    Quantile,
    Start,
    Window,
)

ONE, FULL, LOAD = Point(concurrency=1), Point(concurrency=16), Point(rate=7.0)
QUALITY = Quality(likeness=Likeness.SAME, positions=9, same_top=0.996, schemas=(5, 5), tools=(5, 5))


def window(point: Point, speed: float = 1.0, **fields: Any) -> Window:
    times = {name: Quantile(value=0.02 / speed, most=0.03 / speed) for name in ("p50", "p95", "p99")}
    made: dict[str, Any] = {
        "point": point, "seed": 1, "seconds": 20.0, "requests": 200, "failures": 0, "offered": 10.0,
        "achieved": 10.0 * speed, "goodput": 10.0 * speed, "attainment": 0.99, "tokens_per_s": 1000 * speed,
        "ttft": times, "ttft_sent": times, "tpot": times, "e2e": times, "gap_p99_s": 0.1, "frames_per_token": 1.0,
        "prompt_tokens": 1, "output_tokens": 1, "exact_share": 1.0, "cached_share": 0.0, "lateness_p99_s": 0.0,
        "unsent": 0, "client_cpu": 0.1, "energy_j": 9000.0, "power_w": 450.0, "clock_mhz": 1900.0,
        "memory_bytes": 70 << 30,
    }  # fmt: skip
    return Window(**{**made, **fields})


def engine(replica: str, speed: float, **fields: Any) -> EngineResult:
    starts = tuple(
        Start(
            number=number,
            cold_s=90.0,
            windows=tuple(
                window(point, speed * (1 + 0.001 * (repeat - 1))) for repeat in range(3) for point in (ONE, FULL, LOAD)
            ),
        )
        for number in (1, 2)
    )
    made: dict[str, Any] = {
        "replica": replica, "engine": replica.partition("-")[2], "version": "1.0+cpu", "argv": ("engine", "--x"),
        "kv_tokens": 384_000, "quality": QUALITY, "starts": starts, "limit": "more than 16 at a time do not keep to it",
    }  # fmt: skip
    return EngineResult(**{**made, **fields})


def result(*engines: EngineResult, **fields: Any) -> BenchResult:
    found = engines or (engine("chat-vllm", 1.0), engine("chat-sglang", 1.15))
    limits = {one.replica: FULL for one in found if not one.problem}
    comparisons = compare.compare(found, compare.metrics((ONE, FULL, LOAD), limits))
    chosen, reasons = compare.choice(
        found, comparisons, quick=bool(fields.get("quick")), broken=fields.get("broken", ())
    )
    made: dict[str, Any] = {
        "id": 12, "berth": "1.0", "created": 1_796_000_000.0, "seconds": 2460.0, "model": "chat", "gpu_hour_cost": 2.5,
        "source": "Qwen/Qwen3-8B", "revision": "9c925d6", "context": 32768, "gpus": ("NVIDIA H100",),
        "workload": "chat", "seed": 7, "engines": found, "comparisons": comparisons, "chosen": chosen,
        "reasons": reasons,
    }  # fmt: skip
    return BenchResult(**{**made, **fields})


@cache
def standard() -> BenchResult:
    """Made once."""
    return result()


def broken(one: EngineResult, rule: str) -> EngineResult:
    """With a rule that its first window breaks."""
    first, *others = one.starts
    windows = (replace(first.windows[0], broken=(rule,)), *first.windows[1:])
    return replace(one, starts=(replace(first, windows=windows), *others))
