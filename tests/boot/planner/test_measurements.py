"""A start that was measured, and the plans that it counts for."""

from dataclasses import fields, replace
from typing import Any

import pytest

from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.doctor import memory_figures
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.measurements import LEFT_OUT
from berth.boot.planner.table import plan_table
from berth.plan import EngineName, Importance, Load, Plan
from berth.records.measured import Measured, Measurement
from tests.fakes.machine import CPU_ENGINES, GIB, QWEN_8B, engine, gpu, gpus, host_info

VLLM = EngineSpec(engine=EngineName.VLLM)
CHAT = ModelSpec(name="chat", source=QWEN_8B.source, engines=(VLLM,))
HOST = host_info(*gpus(1, total_gib=24))


def planned(spec: ModelSpec = CHAT, host: HostInfo = HOST) -> Plan:
    return make_plan(Settings(models=(spec,)), host)


def start_of(plan: Plan) -> Measurement:
    """A start of its first replica that took less than was estimated."""
    of = plan.replicas[0].measured_as
    assert of is not None
    return Measurement(
        of=of,
        at=1_796_000_000,
        weights_bytes=15 * GIB,
        overhead_bytes=2 * GIB,
        kv_bytes=4 * GIB,
        kv_tokens=4 * GIB // 147456,
        context=20_000,
    )


def after(plan: Plan, host: HostInfo = HOST) -> HostInfo:
    return replace(host, measured=Measured(measurements=(start_of(plan),)))


def test_the_next_plan_uses_what_was_measured_and_says_so() -> None:
    first = planned()
    second = planned(host=after(first))

    before, now = first.replicas[0].memory, second.replicas[0].memory
    assert before is not None
    assert now is not None
    assert (now.weights_bytes, now.overhead_bytes) == (15 * GIB, 2 * GIB)
    assert now.kv_bytes == before.kv_bytes + before.weights_bytes + before.overhead_bytes - 17 * GIB
    assert (first.replicas[0].context or 0) < (second.replicas[0].context or 0)
    lines = [line.split() for line in plan_table(second).splitlines() if "measured" in line]
    assert [(words[0], words[-2:]) for words in lines] == [
        ("weights", ["measured", "2026-11-30"]),
        ("overhead", ["measured", "2026-11-30"]),
    ]
    assert "measured" not in plan_table(first)
    assert Plan.from_json(second.to_json()) == second


def test_doctor_shows_the_estimate_beside_what_was_measured() -> None:
    first = planned()

    (estimated,), (measured,) = (memory_figures(plan) for plan in (first, planned(host=after(first))))

    assert "chat-vllm: estimated per GPU: weights 15.3 GiB, overhead 3.0 GiB" in estimated.detail
    assert "not measured yet" in estimated.detail
    words = "measured 2026-11-30 per GPU: weights 15.0 GiB (estimated 15.3 GiB), overhead 2.0 GiB (estimated 3.0 GiB)"
    assert words in measured.detail


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"aliases": ("gpt-4o",)},
        {"context": 8192},
        {"concurrency": 4},
        {"pass_fields": ("top_k",)},
        {"kv_cache_bytes": 2 * GIB},
        {
            "load": Load.ON_REQUEST,
            "idle_unload_s": 900.0,
            "idle_stop_s": 1.0,
            "min_residency_s": 1.0,
            "max_wait_s": 1.0,
            "drain_timeout_s": 1.0,
            "priority": Importance.LOW,
        },
        {"pin": True},
        {"variant": "auto"},
    ],
)
def test_it_still_counts_where_the_change_takes_no_memory(changed: dict[str, Any]) -> None:
    memory = planned(replace(CHAT, **changed), after(planned())).replicas[0].memory

    assert memory is not None
    assert memory.measured > 0


def test_each_field_of_a_model_counts_or_is_left_out() -> None:
    """A new field belongs here, or to those that change no memory."""
    counted = {field.name for field in fields(ModelSpec)} - LEFT_OUT
    assert counted == {
        *("extra_sources", "adapters", "adapter_slots", "adapter_rank", "task", "sleep", "speculation"),
        *("kv_dtype", "text_only", "prefix_cache", "kv_offload_bytes"),
    }


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        (replace(CHAT, engines=(replace(VLLM, args=("--enforce-eager",)),)), HOST),
        (replace(CHAT, engines=(replace(VLLM, env={"VLLM_X": "1"}),)), HOST),
        (replace(CHAT, extra_sources=("a/draft",)), HOST),
        (replace(CHAT, adapters=(AdapterSpec(name="a", source="a/lora"),)), HOST),
        (CHAT, host_info(*gpus(1, total_gib=32))),
        (CHAT, host_info(replace(gpu(total_gib=24), compute_capability="8.9"))),
        (CHAT, replace(HOST, installed={EngineName.VLLM: engine("vllm", "0.34.0")})),
        (CHAT, replace(HOST, describe=lambda _spec: replace(QWEN_8B, commit="0" * 40))),
        (replace(CHAT, gpus=2), host_info(*gpus(2, total_gib=24))),
    ],
)
def test_it_counts_for_nothing_else(spec: ModelSpec, host: HostInfo) -> None:
    memory = planned(spec, after(planned(), host)).replicas[0].memory

    assert memory is not None
    assert memory.measured == 0


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        (replace(CHAT, engines=(EngineSpec(engine=EngineName.TRTLLM),)), HOST),
        (CHAT, host_info(installed=CPU_ENGINES)),
        (replace(CHAT, engines=(EngineSpec(engine=EngineName.SIM),)), HOST),
    ],
)
def test_what_says_nothing_about_its_memory_is_not_measured(spec: ModelSpec, host: HostInfo) -> None:
    plan = planned(spec, host)

    assert plan.replicas[0].measured_as is None
    assert memory_figures(plan) == []


def test_sglang_keeps_what_it_needs_later() -> None:
    """At its start it has not run a large batch yet."""
    spec = replace(CHAT, engines=(EngineSpec(engine=EngineName.SGLANG),))
    memory = planned(spec, after(planned(spec))).replicas[0].memory

    assert memory is not None
    assert (memory.weights_bytes, memory.overhead_bytes) == (15 * GIB, 4 * GIB)


def test_an_unreadable_file_is_a_warning() -> None:
    host = replace(HOST, measured=Measured(problem="'/data/berth/measured.json' is damaged"))

    assert any("measured.json' is damaged" in warning for warning in planned(host=host).warnings)
