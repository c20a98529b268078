"""BERTH_NODES, BERTH_NODE, BERTH_NODES_KEY and the field `nodes` of a model."""

import pytest

from berth.boot.config.nodes import parse_nodes
from berth.boot.config.settings import load
from berth.errors import ConfigError
from berth.plan import Node

TWO = {"BERTH_NODES": "10.0.0.1,10.0.0.2", "BERTH_NODES_KEY": "k" * 32}
BIG = {"BERTH_MODELS": "big: {source: org/big, nodes: 2}"}


def problems(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load({**BIG, **environ}, cpus=1)
    return [f"{one.variable}={one.value}: {one.reason}" for one in caught.value.problems]


def test_boxes_keep_their_order_and_have_ports() -> None:
    found = load(BIG | TWO | {"BERTH_NODES": "10.0.0.2:29600 10.0.0.1", "BERTH_NODE": "1"}, cpus=1)
    assert (found.nodes, found.node) == ((Node(address="10.0.0.2", port=29600), Node(address="10.0.0.1")), 1)
    assert found.models[0].nodes == 2
    assert "k" * 32 not in repr(found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fd00::1,fd00::2", ["[fd00::1]", "[fd00::2]"]),
        ("[fd00::1]:29600,fd00::2", ["[fd00::1]:29600", "[fd00::2]"]),
        ("10.0.0.1:29500,10.0.0.2:1", ["10.0.0.1", "10.0.0.2:1"]),
    ],
)
def test_addresses_are_shown_as_they_can_be_written(text: str, shown: list[str]) -> None:
    assert list(map(str, parse_nodes(text))) == shown
    assert parse_nodes(",".join(shown)) == parse_nodes(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1", "one box needs no list"),
        ("10.0.0.1,10.0.0.1:29500", "a box is named twice"),
        ("gpu1,gpu2", "'gpu1' is not an IP address, or one with a port"),
        ("10.0.0.1:x,10.0.0.2", "'10.0.0.1:x' is not an IP address, or one with a port"),
        ("10.0.0.1/24,10.0.0.2", "'10.0.0.1/24' is no address of one box"),
        ("0.0.0.0,10.0.0.2", "'0.0.0.0' is no address of one box"),
        ("10.0.0.1:0,10.0.0.2", "'10.0.0.1:0' is no address of one box"),
        (" ".join(f"10.0.0.{number}" for number in range(1, 66)), "more than 64 boxes"),
    ],
)
def test_a_list_that_names_no_boxes_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        parse_nodes(text)


def test_what_belongs_together_is_asked_for() -> None:
    missing = "not set, and BERTH_NODES is: boxes obey each other's messages, so these are signed"
    assert problems(BERTH_NODES="10.0.0.1,10.0.0.2") == [f"BERTH_NODES_KEY=: {missing}"]
    assert problems(BERTH_NODE="0", BERTH_NODES_KEY="k" * 32) == [
        "BERTH_NODE=0: BERTH_NODES is not set",
        "BERTH_NODES_KEY=***: BERTH_NODES is not set",
        "BERTH_MODELS: big.nodes=2: BERTH_NODES is not set",
    ]
    assert problems(**TWO, BERTH_NODE="2") == ["BERTH_NODE=2: BERTH_NODES names 2 boxes"]
    three = TWO | {"BERTH_NODES": "10.0.0.1,10.0.0.2,10.0.0.3"}
    named = "BERTH_NODES names 3: 10.0.0.1, 10.0.0.2, 10.0.0.3"
    assert problems(**three) == [f"BERTH_MODELS: big.nodes=2: {named}"]


def test_a_wrong_variable_is_reported_once() -> None:
    assert problems(BERTH_NODES="gpu1,gpu2", BERTH_NODES_KEY="k" * 32) == [
        "BERTH_NODES=gpu1,gpu2: 'gpu1' is not an IP address, or one with a port"
    ]
    assert problems(BERTH_NODES="10.0.0.1,10.0.0.2", BERTH_NODES_KEY="short") == [
        "BERTH_NODES_KEY=***: shorter than 16 characters"
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("engines: [trtllm]", "TensorRT-LLM starts its ranks with mpirun"),
        ("engines: ['sim:trtllm']", "TensorRT-LLM cannot run on several boxes"),
        ("engines: [{url: 'http://10.0.0.9:8000'}]", "an attached engine runs where it runs"),
        ("engines: [vllm, sglang]", "engines: this model runs on 2 boxes"),
        ("standby: hot, engines: [vllm, sglang]", "standby: this model runs on 2 boxes"),
        ("replicas: 2", "replicas: this model runs on 2 boxes"),
        ("sleep: true", "sleep: this model runs on 2 boxes"),
        ("load: on_request", "load: this model runs on 2 boxes"),
    ],
)
def test_what_several_boxes_cannot_have_is_rejected(fields: str, reason: str) -> None:
    found = problems(**TWO, BERTH_MODELS=f"big: {{source: org/big, nodes: 2, {fields}}}")
    assert any(reason in f"{one.partition('big.')[2].replace('=', '')}" or reason in one for one in found), found
