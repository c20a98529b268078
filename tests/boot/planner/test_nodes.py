"""Which box this is, what it takes of a model that runs on several, and how the plan shows them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.nodes import fabric_warnings, own_nodes
from berth.boot.planner.table import plan_table
from berth.errors import ConfigError, PlacementError
from berth.host.interfaces import Interface
from berth.plan import Box, BoxGpu, EngineName, Node, Nodes, Plan
from berth.plan.ranks import REMEDIES, differences
from tests.fakes.machine import CPU_ENGINES, LLAMA_70B, QWEN_8B, engine, gpus, host_info, inventory

BOXES = (Node(address="10.0.0.1"), Node(address="10.0.0.2"))
LOOPBACK = Interface(name="lo", addresses=("127.0.0.1",))
ETHERNET = Interface(name="eth0", addresses=("10.0.0.1",), speed_mbit=1000)
INFINIBAND = Interface(name="ib0", addresses=("10.1.0.1",), speed_mbit=200_000)
BIG = ModelSpec(name="big", source=LLAMA_70B.source, nodes=2, engines=(EngineSpec(engine=EngineName.VLLM),))
GIB = 2**30


def settings(*models: ModelSpec, node: int | None = None) -> Settings:
    return Settings(models=models, nodes=BOXES, node=node, nodes_key="k" * 32)


def host(*own: Interface, count: int = 2, ray: bool = False, boxes: tuple[Box, ...] = ()) -> HostInfo:
    return replace(
        host_info(*gpus(count)),
        interfaces=lambda: own or (LOOPBACK, ETHERNET),
        has_ray=lambda _home: ray,
        ask_boxes=lambda _nodes, _key: boxes,
    )


def test_the_box_is_found_by_its_address() -> None:
    assert own_nodes(settings(), host()) == Nodes(boxes=BOXES, rank=0, interface="eth0")
    other = replace(ETHERNET, name="bond0", addresses=("10.0.0.2",))
    assert own_nodes(settings(), host(LOOPBACK, other)) == Nodes(boxes=BOXES, rank=1, interface="bond0")
    assert own_nodes(Settings(models=()), host()) is None


@pytest.mark.parametrize(
    ("own", "node", "reason"),
    [
        ((LOOPBACK,), None, "none of 10.0.0.1, 10.0.0.2 is an address of this box, which has 127.0.0.1 on lo"),
        ((replace(ETHERNET, addresses=("10.0.0.1", "10.0.0.2")),), None, "2 of 10.0.0.1, 10.0.0.2 are this box"),
        ((ETHERNET,), 1, "10.0.0.2, box 1 of BERTH_NODES, is not an address of this box"),
    ],
)
def test_a_box_that_is_not_in_the_list_does_not_start(
    own: tuple[Interface, ...], node: int | None, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(settings(BIG, node=node), host(*own))
    assert caught.value.problems[0].reason.startswith(reason)


def test_the_place_decides_where_several_addresses_are_this_box() -> None:
    both = replace(ETHERNET, addresses=("10.0.0.1", "10.0.0.2"))
    found = own_nodes(settings(node=1), host(both))
    assert found is not None
    assert found.rank == 1


@pytest.mark.parametrize(
    ("own", "warned"),
    [
        ((ETHERNET,), ""),
        ((ETHERNET, replace(INFINIBAND, up=False)), ""),
        ((ETHERNET, replace(INFINIBAND, speed_mbit=4000)), ""),
        ((ETHERNET, INFINIBAND), "10.0.0.1 is on eth0 (1000 Mbit/s), and ib0 has 200000 Mbit/s: name 10.1.0.1"),
        ((replace(ETHERNET, name="docker0"),), "10.0.0.1 is on docker0, a bridge of this box"),
        ((LOOPBACK,), ""),
    ],
)
def test_a_network_that_is_hardly_meant_is_named(own: tuple[Interface, ...], warned: str) -> None:
    found = fabric_warnings(Nodes(boxes=BOXES, rank=0, interface=own[0].name), own)
    assert [warned in note for note in found] == [True] * bool(warned)
    assert fabric_warnings(Nodes(boxes=BOXES, rank=0, interface="gone"), own) == []


def test_two_boxes_hold_what_one_cannot() -> None:
    with pytest.raises(PlacementError):
        make_plan(Settings(models=(replace(BIG, nodes=1),)), host(count=1))
    plan = make_plan(settings(BIG), host(count=1))
    memory = plan.replicas[0].memory
    assert memory is not None
    assert memory.weights_bytes == -(-(LLAMA_70B.weights_bytes or 0) // 2)
    assert memory.total_bytes < 80 * GIB
    assert Plan.from_json(plan.to_json()) == plan


def test_every_box_has_its_rank_of_the_same_replica() -> None:
    head = make_plan(settings(BIG), host()).replicas[0]
    other = make_plan(settings(BIG), host(replace(ETHERNET, addresses=("10.0.0.2",)))).replicas[0]
    assert head.ranks is not None
    assert other.ranks is not None
    assert (head.name, head.follows, other.name, other.follows) == ("big-vllm", False, "big-vllm", True)
    assert head.ranks.facts == other.ranks.facts
    assert head.ranks.facts["GPUs"] == "1 x NVIDIA Fake 80GB"
    assert set(head.ranks.facts) == set(REMEDIES)
    assert (other.ranks.meeting, other.ranks.url) == ("10.0.0.1:29501", "http://10.0.0.1:8000")
    assert other.stop_timeout_s == 5.0
    assert (head.measured_as, other.measured_as) == (None, None)


def facts_of(changed_host: HostInfo, model: ModelSpec = BIG) -> Mapping[str, str]:
    ranks = make_plan(settings(model), changed_host).replicas[0].ranks
    assert ranks is not None
    return ranks.facts


def other_commit(spec: ModelSpec) -> ModelInfo:
    return replace(LLAMA_70B, commit="c0ffee" if spec.source == LLAMA_70B.source else None)


@pytest.mark.parametrize(
    ("changed", "model", "names"),
    [
        ({"own_build": lambda: "another"}, BIG, ["Berth"]),
        ({"installed": {EngineName.VLLM: engine("vllm", "0.34.0")}}, BIG, ["engine"]),
        ({"packages": lambda _home: "torch 2.14.0"}, BIG, ["packages"]),
        ({"describe": other_commit}, BIG, ["model"]),
        ({"inventory": inventory(*(replace(one, name="Other") for one in gpus(2)))}, BIG, ["GPUs"]),
        ({"has_ray": lambda _home: True}, BIG, ["executor"]),
        ({}, replace(BIG, context=4096), ["context"]),
        ({}, replace(BIG, prefix_cache=False), ["options"]),
        ({}, replace(BIG, engines=(replace(BIG.engines[0], args=("--seed", "1")),)), ["args"]),
    ],
)
def test_what_differs_between_boxes_is_named_with_the_next_step(
    changed: Mapping[str, Any], model: ModelSpec, names: list[str]
) -> None:
    found = list(differences(facts_of(host()), facts_of(replace(host(), **changed), model), "box 0", "box 1"))
    assert [text.partition(":")[0] for text in found] == names
    assert all(text.endswith(f": {REMEDIES[name]}") for text, name in zip(found, names, strict=True))


def test_vllm_runs_on_ray_where_that_is_installed() -> None:
    plan = make_plan(settings(BIG), host(ray=True))
    replica = plan.replicas[0]
    assert replica.launch is not None
    assert replica.attendant is not None
    assert replica.ranks is not None
    assert replica.ranks.ray
    assert " --distributed-executor-backend ray " in " ".join(replica.launch.argv)
    token = make_keys(settings(BIG), plan).engine_env["big-vllm"]["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert "RAY_AUTH_TOKEN" not in replica.attendant.env
    other = replace(BIG, engines=(replace(BIG.engines[0], args=("--distributed-executor-backend", "mp")),))
    without = make_plan(settings(other), host(ray=True)).replicas[0]
    assert without.ranks is not None
    assert (without.ranks.ray, without.attendant) == (False, None)


@pytest.mark.parametrize(("args", "ray"), [((), False), (("--distributed-executor-backend", "ray"), True)])
def test_vllm_on_cpus_runs_on_ray_only_where_it_is_asked_to(args: tuple[str, ...], ray: bool) -> None:
    small = replace(BIG, source=QWEN_8B.source, engines=(replace(BIG.engines[0], args=args),))
    on_cpus = replace(host(ray=True), inventory=host_info().inventory, installed=CPU_ENGINES)
    replica = make_plan(settings(small), on_cpus).replicas[0]
    assert replica.ranks is not None
    assert (replica.ranks.ray, replica.attendant is not None) == (ray, ray)


def test_models_on_several_boxes_meet_at_ports_of_their_own() -> None:
    second = replace(BIG, name="second", source=QWEN_8B.source)
    alone = ModelSpec(name="alone", source=QWEN_8B.source)
    plan = make_plan(settings(BIG, alone, second), host(count=8))
    ports = {one.model: one.ranks.port if one.ranks else None for one in plan.replicas}
    assert ports == {"big": 29501, "alone": None, "second": 29502}


def test_trtllm_is_never_chosen_for_several_boxes() -> None:
    chosen = replace(BIG, engines=())
    only = replace(settings(chosen), engines=(EngineName.TRTLLM, EngineName.SGLANG))
    assert make_plan(only, host()).replicas[0].engine is EngineName.SGLANG


def test_the_plan_shows_all_boxes() -> None:
    alike = make_plan(settings(BIG), host()).box
    theirs = Box(
        rank=1,
        gpus=(BoxGpu(name="NVIDIA Other", memory_total_bytes=40 * GIB, memory_free_bytes=39 * GIB),),
        replicas={"big-vllm": {**alike.replicas["big-vllm"], "GPUs": "1 x NVIDIA Other"}},
    )
    text = plan_table(plan := make_plan(settings(BIG), host(boxes=(theirs,))))
    assert "  0  10.0.0.1  this box, on eth0\n       NVIDIA Fake 80GB" in text
    assert "  1  10.0.0.2  answers\n       NVIDIA Other  40.0 GiB, 39.0 GiB free\n       big-vllm  rank 1: " in text
    mine = (
        "big-vllm will not start: GPUs: box 0 (10.0.0.1) has '1 x NVIDIA Fake 80GB', box 1 (10.0.0.2) has '1 x NVIDIA"
    )
    assert any(note.startswith(mine) for note in plan.warnings)
    other = make_plan(settings(BIG), host(boxes=(replace(theirs, replicas={}),)))
    assert any("box 1 (10.0.0.2) has no such replica" in note for note in other.warnings)
    assert "does not answer yet: planned like this box" in plan_table(make_plan(settings(BIG), host()))
