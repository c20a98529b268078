"""BERTH_NODES: the boxes that work together, and what has to be set with it."""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.parsers import secret, words
from berth.errors import Problem
from berth.plan import Node
from berth.plan.ranks import CONTROL_PORT

MOST_NODES = 64
LEAST_KEY = 16  # characters: who guesses it can stop the engines of all boxes
LIST_EXAMPLE = "BERTH_NODES=10.0.0.1,10.0.0.2"
LIST_ALLOWED = f"addresses, each with a port (10.0.0.1:29500) or without ({CONTROL_PORT}), separated by commas"


def parse_nodes(text: str) -> tuple[Node, ...]:
    """The boxes in the order of their ranks."""
    found = tuple(map(parse_node, words(text)))
    if len(found) < 2:
        raise ValueError("one box needs no list")
    if len(found) > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES} boxes")
    if len(set(found)) < len(found):
        raise ValueError("a box is named twice")
    return found


def parse_node(word: str) -> Node:
    """Engines bind their address, and compare it: a name may have several."""
    split = urlsplit(f"//[{word}]" if word.count(":") > 1 and "[" not in word else f"//{word}")
    try:
        address, port = ip_address(split.hostname or ""), split.port
    except ValueError:
        raise ValueError(f"{word!r} is not an IP address, or one with a port") from None
    if port == 0 or split.path or split.query or address.is_unspecified or address.is_multicast:
        raise ValueError(f"{word!r} is no address of one box")
    return Node(address=str(address), port=CONTROL_PORT if port is None else port)


def parse_nodes_key(text: str) -> str:
    if len(text) < LEAST_KEY:
        raise ValueError(f"shorter than {LEAST_KEY} characters")
    return secret(text)


def node_problems(fields: Mapping[str, Any], wrong: Collection[str] = ()) -> list[Problem]:
    """What is wrong with the boxes, their key and the models that run on several of them, taken together. `wrong`:
    variables that could not be read.
    """
    if "BERTH_NODES" in wrong:
        return []
    nodes: Sequence[Node] = fields.get("nodes", ())
    models: Sequence[ModelSpec] = fields.get("models", ())
    problems = []
    for name, field in (("BERTH_NODE", "node"), ("BERTH_NODES_KEY", "nodes_key")):
        if not nodes and field in fields:
            value = "***" if field == "nodes_key" else str(fields[field])
            problems.append(_problem(name, value, "BERTH_NODES is not set", LIST_ALLOWED, LIST_EXAMPLE))
    if nodes and "nodes_key" not in fields and not {"BERTH_NODES_KEY", "BERTH_NODES_KEY_FILE"} & set(wrong):
        reason = "not set, and BERTH_NODES is: boxes obey each other's messages, so these are signed"
        allowed = f"a secret of at least {LEAST_KEY} characters, the same on every box (openssl rand -hex 32)"
        problems.append(_problem("BERTH_NODES_KEY", "", reason, allowed, "BERTH_NODES_KEY_FILE=/run/secrets/nodes_key"))
    if nodes and fields.get("node", 0) >= len(nodes):
        reason = f"BERTH_NODES names {len(nodes)} boxes"
        allowed = f"the place of this box in the list: 0 to {len(nodes) - 1}"
        problems.append(_problem("BERTH_NODE", str(fields["node"]), reason, allowed, "BERTH_NODE=1"))
    for model in (one for one in models if one.nodes > 1 and one.nodes != len(nodes)):
        reason, allowed = "BERTH_NODES is not set", "1, or with BERTH_NODES as many boxes as it names"
        if nodes:
            reason = f"BERTH_NODES names {len(nodes)}: {', '.join(map(str, nodes))}"
            allowed = f"{len(nodes)}, all of them, or 1"
        where = f"BERTH_MODELS: {model.name}.nodes"
        problems.append(_problem(where, str(model.nodes), reason, allowed, LIST_EXAMPLE if not nodes else "nodes: 2"))
    return problems


def _problem(variable: str, value: str, reason: str, allowed: str, example: str) -> Problem:
    return Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example)
