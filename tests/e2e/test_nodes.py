"""A model over two boxes: two appliances at two loopback addresses, with a simulated engine that has ranks."""

from collections.abc import Iterator

import httpx
import pytest

from berth.state import ReplicaStatus
from tests.e2e.appliance import Appliance, end
from tests.e2e.boxes import LONG_S, Boxes
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODELS = "big: {source: simulated, nodes: 2, engines: ['sim:vllm']}"


def appliance(rank: int, ports: tuple[int, int, int]) -> Appliance:
    address = f"127.0.0.{rank + 1}"
    found = Appliance(
        MODELS,
        BERTH_NODES=f"127.0.0.1:{ports[0]},127.0.0.2:{ports[1]}",
        BERTH_NODE=str(rank),
        BERTH_NODES_KEY="k" * 32,
        BERTH_PORT=str(ports[2]),
        BERTH_HOST=address,
    )
    found.url = f"http://{address}:{ports[2]}"
    found.http.base_url = httpx.URL(found.url)
    return found


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    ports = (free_port(), free_port(), free_port())
    with appliance(0, ports) as head:
        waits = "waits for box 1 (127.0.0.2"
        head.wait(lambda: head.state().replicas[0].reason.startswith(waits), LONG_S)
        assert "replica starting" not in head.output(), "nothing starts before all boxes are there"
        with appliance(1, ports) as other:
            found = Boxes(head=head, other=other)
            head.wait(found.serves, LONG_S)
            yield found


def test_the_head_serves_and_the_other_box_names_it(boxes: Boxes) -> None:
    assert boxes.head.chat("big").status_code == 200
    answer = boxes.other.chat("big")
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "misdirected_request"
    assert f"is served by {boxes.head.url}: send its requests there" in answer.json()["error"]["message"]
    message = {"model": "big", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    assert boxes.other.http.post("/v1/messages", json=message).json()["type"] == "error"
    assert boxes.other.get("/ready").status_code == 200
    ranks = boxes.head.replicas()["big-sim"]["ranks"]
    assert [(one["rank"], one["status"]) for one in ranks] == [(0, "ready"), (1, "ready")]


def test_a_dead_rank_starts_a_new_generation(boxes: Boxes) -> None:
    generation = boxes.generation()
    end(boxes.other.find("sim"))
    boxes.serves_again(generation)


def test_after_a_partition_no_old_rank_is_left(boxes: Boxes) -> None:
    """The other box is stopped as a whole, but not its rank: the head hears nothing of it."""
    generation, rank = boxes.generation(), boxes.other.find("sim")
    stopped = [one for one in boxes.other.processes() if one.pid != rank.pid]
    for one in stopped:
        one.suspend()
    try:
        boxes.head.wait(lambda: boxes.replica(boxes.head).ranks[1].status == "silent", LONG_S)
        boxes.head.wait(lambda: boxes.replica(boxes.head).status is ReplicaStatus.BACKOFF, LONG_S)
        assert rank.is_running(), "it does not notice by itself"
    finally:
        for one in stopped:
            one.resume()
    boxes.serves_again(generation)
    assert not rank.is_running()


def test_a_stale_rank_is_ended_when_the_head_comes_back(boxes: Boxes) -> None:
    boxes.head_reboots()
