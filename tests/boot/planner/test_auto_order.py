"""`engines: auto`: which result of `berth bench` decides, and that the plan says so."""

from dataclasses import replace
from typing import Any

import pytest

from berth.boot.config.model_spec import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.table import plan_table
from berth.plan import DialectName, EngineName, Plan
from berth.records.results import BenchResult, EngineResult, Point, Start, Window
from tests.fakes.machine import QWEN_8B, gpus, host_info

CHAT = ModelSpec(name="chat", source=QWEN_8B.source, auto=True)
HOST = host_info(*gpus(1, total_gib=80))
WHY = "1.15x (1.12-1.18) goodput of chat-vllm"
DAY = 1_796_000_000


def planned(*results: BenchResult, spec: ModelSpec = CHAT, host: HostInfo = HOST) -> Plan:
    return make_plan(Settings(models=(spec,)), replace(host, results=lambda: results))


def result_of(plan: Plan, chosen: str = "chat-sglang", *broken: str, **fields: Any) -> BenchResult:
    """Of all replicas of a plan."""
    window = Window(
        point=Point(concurrency=1), seed=1, seconds=1, requests=1, failures=0, offered=1, achieved=1, goodput=1,
        attainment=1, tokens_per_s=1, ttft={}, ttft_sent={}, tpot={}, e2e={}, gap_p99_s=None, frames_per_token=1,
        prompt_tokens=1, output_tokens=1, exact_share=1, cached_share=0, lateness_p99_s=0, unsent=0, client_cpu=0,
        broken=broken,
    )  # fmt: skip
    engines = tuple(
        EngineResult(
            replica=one.name, engine=one.engine, version="", compared_as=one.compared_as,
            starts=(Start(number=1, cold_s=1, windows=(window,)),),
        )
        for one in plan.replicas
    )  # fmt: skip
    made: dict[str, Any] = {
        "id": 12, "berth": "1", "created": DAY, "seconds": 1, "model": "chat", "source": "x", "workload": "chat",
        "seed": 1, "engines": engines, "chosen": chosen, "reasons": (WHY,),
    }  # fmt: skip
    return BenchResult(**{**made, **fields})


def engines_of(plan: Plan) -> list[str]:
    return [str(plan.replica(name).engine) for name in plan.models[0].replicas]


def test_without_a_result_all_engines_that_can_serve_it_are_there_and_the_plan_says_what_to_do() -> None:
    plan = planned()
    assert engines_of(plan) == ["vllm", "sglang", "trtllm"]
    reason = plan.replicas[0].reason
    assert "auto, without a result for these engines, versions and GPUs: `berth bench chat`" in reason
    assert "`berth bench chat`" in " ".join(plan_table(plan).split())


def test_winner_comes_first_and_the_plan_has_date_and_interval() -> None:
    plan = planned(result_of(planned()))
    assert engines_of(plan) == ["sglang", "vllm", "trtllm"]
    assert plan.replicas[0].reason == f"auto, bench 12 of 2026-11-30: {WHY}"
    assert f"auto, bench 12 of 2026-11-30: {WHY}" in " ".join(plan_table(plan).split())


def test_newest_result_decides() -> None:
    results = [result_of(planned(), chosen, id=number) for number, chosen in ((1, "chat-sglang"), (2, "chat-trtllm"))]
    assert engines_of(planned(*results)) == ["trtllm", "vllm", "sglang"]


def with_version(result: BenchResult, version: str) -> BenchResult:
    engines = [
        replace(one, compared_as=replace(one.compared_as, version=version))
        if one.engine == "vllm" and one.compared_as
        else one
        for one in result.engines
    ]
    return replace(result, engines=tuple(engines))


@pytest.mark.parametrize("case", ["invalid", "quick", "nothing chosen", "method", "version", "engine", "card", "args"])
def test_result_that_does_not_apply_chooses_nothing_and_is_mentioned(case: str) -> None:
    first = planned()
    spec, host, result = CHAT, HOST, result_of(first)
    match case:
        case "invalid":
            result = result_of(first, "chat-sglang", "F7: warm")
        case "quick":
            result = replace(result, quick=True)
        case "nothing chosen":
            result = replace(result, chosen="")
        case "method":
            result = replace(result, method=0)
        case "version":
            result = with_version(result, "0.1.0")
        case "engine":
            result = replace(result, engines=result.engines[:2])
        case "card":
            host = host_info(*gpus(1, total_gib=96))
        case _:
            options = {EngineName.SGLANG: EngineOptions(args=("--disable-radix-cache",))}
            spec = replace(CHAT, options=options)
    plan = planned(result, spec=spec, host=host)
    assert engines_of(plan)[0] == "vllm"
    assert "(bench 12 of 2026-11-30 does not apply)" in plan.replicas[0].reason


def test_named_engines_are_ordered_alone() -> None:
    sims = tuple(
        EngineSpec(engine=EngineName.SIM, dialect=dialect) for dialect in (DialectName.VLLM, DialectName.SGLANG)
    )
    spec = replace(CHAT, engines=sims)
    plan = planned(spec=spec)
    chosen = plan.replicas[1].name
    again = planned(result_of(plan, chosen), spec=spec)
    assert [one.dialect for one in again.replicas] == ["sglang", "vllm"]
    assert WHY in again.replicas[0].reason


def test_model_that_was_never_measured_is_not_confused_with_another() -> None:
    other = planned(spec=replace(CHAT, engines=(EngineSpec(engine=EngineName.SIM),), source="another"))
    assert "does not apply" not in planned(result_of(other)).replicas[0].reason
