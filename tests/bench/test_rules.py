"""What the engines of a run have to have in common."""

from dataclasses import replace
from typing import Any

import pytest

from berth.bench import rules
from berth.plan import Launch, Replica
from berth.records.results import Point
from tests.bench.results_of import broken, engine, result, window
from tests.fakes.plans import make_replica


def two(*own_args: str, **fields: Any) -> tuple[Replica, Replica]:
    """The second one with these arguments of the user, and this difference."""
    first, second = (
        replace(
            make_replica(f"m-{name}", launch=Launch(argv=("x", *args), own_args=args)),
            weights="Qwen/Qwen3-8B", context=4096, gpus=(0,), memory_fraction=0.9, concurrency=64,
        )
        for name, args in (("vllm", ()), ("sglang", own_args))
    )  # fmt: skip
    return first, replace(second, **fields)


def test_engines_that_are_alike_break_nothing_and_there_is_nothing_to_note() -> None:
    assert [*rules.unlike(two())] == [*rules.noted(two())] == []


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"weights": "Qwen/Qwen3-8B --quantization fp8"}, "F2: not the same weights: m-vllm Qwen/Qwen3-8B, m-sglang "),
        ({"context": 8192}, "F2: not the same context: m-vllm 4096, m-sglang 8192"),
        ({"gpus": (0, 1)}, "F2: not the same GPUs: m-vllm 0, m-sglang 0, 1"),
    ],
)
def test_difference_that_makes_a_comparison_invalid(fields: dict[str, Any], rule: str) -> None:
    (found,) = rules.unlike(two(**fields))
    assert found.startswith(rule)


@pytest.mark.parametrize(
    "argument", ["--disable-radix-cache", "--disable-cuda-graph=true", "--disable-overlap-schedule"]
)
def test_handicap_of_one_engine_makes_a_comparison_invalid(argument: str) -> None:
    (found,) = rules.unlike(two(argument))
    assert found.startswith("F3: m-sglang has to do without ")


def test_same_handicap_of_all_engines_is_only_noted() -> None:
    first, second = two("--disable-cuda-graph")
    own = Launch(argv=("x",), own_args=("--enforce-eager",), own_env=("TOKEN",))
    both = (replace(first, launch=own), second)
    assert [*rules.unlike(both)] == []
    assert [*rules.noted(both)] == [
        "F3: m-vllm is measured as configured: --enforce-eager TOKEN=***",
        "F3: m-sglang is measured as configured: --disable-cuda-graph",
    ]


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"memory_fraction": 0.8}, "F2: not the same share of the GPUs' memory: m-vllm 90%, m-sglang 80%"),
        ({"concurrency": None}, "F3: not as many requests at a time: m-vllm 64, m-sglang no limit"),
    ],
)
def test_what_need_not_be_alike_is_noted(fields: dict[str, Any], note: str) -> None:
    assert [*rules.unlike(two(**fields))] == []
    assert [*rules.noted(two(**fields))] == [note]


@pytest.mark.parametrize(("clock", "count"), [(1890.0, 0), (1700.0, 1)])
def test_clocks_have_to_be_alike(clock: float, count: int) -> None:
    first, second = engine("a-vllm", 1.0), engine("a-sglang", 1.0)
    start = replace(second.starts[0], windows=(window(Point(concurrency=1), clock_mhz=clock),))
    found = rules.clocks((first, replace(second, starts=(start,))))
    assert len(found) == count
    assert all(rule.startswith("F11") for rule in found)
    assert rules.clocks(()) == ()


def test_rule_that_a_run_breaks_makes_it_invalid_and_chooses_nothing() -> None:
    rule = "F3: m-sglang has to do without CUDA graphs"
    found = result(engine("m-vllm", 1.0), engine("m-sglang", 2.0), broken=(rule,))
    assert not found.valid
    assert (found.chosen, found.reasons) == ("", (rule,))
    assert result(broken(engine("m-vllm", 1.0), "F8: x"), engine("m-sglang", 1.0)).chosen == ""
