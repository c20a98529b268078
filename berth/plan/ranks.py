"""The boxes that work together, and what one model's engine is on each of them: a rank of a group."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

CONTROL_PORT = 29500  # of a box whose entry in BERTH_NODES has none

SAME_IMAGE = "run the same image on every box"
REMEDIES = {  # of `Ranks.facts`
    "Berth": SAME_IMAGE,
    "engine": SAME_IMAGE,
    "packages": SAME_IMAGE,
    "model": "set the same `source` and `revision` on every box",
    "GPUs": "use as many GPUs of the same kind on every box",
    "executor": "install Ray on every box or on none, as the same image does",
    "context": "set the same `context` on every box",
    "options": "set the same BERTH_MODELS on every box",
    "args": "set the same BERTH_MODELS on every box",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One box of BERTH_NODES; its place in the list is its rank."""

    address: str  # an IP address
    port: int = CONTROL_PORT  # where its control listens for those of the other boxes

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == CONTROL_PORT else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """All boxes, in the order of their ranks, and which of them this one is."""

    boxes: tuple[Node, ...]
    rank: int
    interface: str  # which has this box's address, "eth0"

    @property
    def own(self) -> Node:
        return self.boxes[self.rank]

    @property
    def head(self) -> Node:
        return self.boxes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The part of a replica whose engine runs on several boxes: one rank on each."""

    nodes: int  # boxes
    rank: int  # of this one; 0 is the head, which alone answers requests
    head: str  # the address of box 0
    own: str  # of this box
    port: int  # on the head, where the ranks meet: the engines' rendezvous, or Ray's
    interface: str
    url: str  # of Berth on the head, for clients
    ray: bool = False  # vLLM's executor: Ray's processes are the ranks that follow
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)  # what has to be equal on all boxes, for people

    @property
    def meeting(self) -> str:
        """Where the ranks meet, "10.0.0.1:29501"."""
        host = f"[{self.head}]" if ":" in self.head else self.head
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxGpu:
    name: str
    memory_total_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What one box says of itself to the others."""

    rank: int
    gpus: tuple[BoxGpu, ...] = ()
    replicas: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # `Ranks.facts` of each


def differences(own: Mapping[str, str], other: Mapping[str, str], mine: str, theirs: str) -> Iterator[str]:
    """What two boxes do not have in common, for people, with what to do. `mine` and `theirs`: who they are."""
    for name in dict.fromkeys((*own, *other)):
        if own.get(name) != other.get(name):
            has = f"{mine} has {own.get(name, 'none')!r}, {theirs} has {other.get(name, 'none')!r}"
            yield f"{name}: {has}: {REMEDIES.get(name, SAME_IMAGE)}"
