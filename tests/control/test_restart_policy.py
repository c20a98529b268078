"""One start or stop at a time per device."""

from dataclasses import replace

import pytest

from berth.control.restart_policy import CPU, devices, grant
from berth.plan import Replica
from tests.fakes.plans import make_replica


def on(name: str, *gpus: int) -> Replica:
    return replace(make_replica(name, launch=None), gpus=gpus)


def test_replicas_without_a_gpu_share_the_cpu() -> None:
    assert devices(on("a")) == {CPU}
    assert devices(on("a", 0, 3)) == {0, 3}


@pytest.mark.parametrize(
    ("waiting", "holding", "granted"),
    [
        ([on("a", 0), on("b", 0)], [], ("a",)),
        ([on("a", 0), on("b", 1)], [], ("a", "b")),
        ([on("a"), on("b")], [], ("a",)),
        ([on("a"), on("b", 0)], [], ("a", "b")),
        ([on("a", 0)], [on("x", 0)], ()),
        ([on("wide", 0, 1), on("b", 1)], [on("x", 0)], ()),
        ([on("wide", 0, 1), on("b", 2)], [on("x", 0)], ("b",)),
        ([], [on("x", 0)], ()),
    ],
    ids=["same GPU", "two GPUs", "CPU", "CPU and GPU", "held", "not overtaken", "beside", "nobody"],
)
def test_who_may_start(waiting: list[Replica], holding: list[Replica], granted: tuple[str, ...]) -> None:
    assert grant(waiting, holding) == granted
