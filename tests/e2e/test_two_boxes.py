"""A model over two boxes that share nothing but a network: two namespaces, with a link that is cut. Then the real vLLM
in two stages, with and without Ray, and the real SGLang. Opt-in: it needs root, and takes minutes: `make e2e-nodes`.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.state import ReplicaStatus
from etc.tools.setup.ray_cpu.install import HOME, is_installed
from etc.tools.setup.sglang_cpu.install import is_installed as sglang_is_installed
from tests.e2e.appliance import ROOT, Appliance, end, wait_for
from tests.e2e.boxes import LONG_S, Boxes
from tests.e2e.conftest import VLLM
from tests.fakes.namespaces import TwoBoxes, obstacle

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(3000)]
SIM = "big: {source: simulated, nodes: 2, engines: ['sim:vllm']}"
SGLANGS = (ROOT / ".engines/sglang-cpu", HOME / "sglang-cpu")
PROMISED_S = 6.0  # reported, not asserted: this machine may be busy
OTHER_VERSION = "import berth, berth._version as v; berth.__version__ = v.__version__ = '0.0.1'; "
REAL_S = 900.0  # of the real vLLM on a busy machine
BOOT = "from berth.cli.main import main; main(['boot'])"


@pytest.fixture(scope="module")
def network() -> Iterator[TwoBoxes]:
    if not os.environ.get("E2E_NODES") or obstacle():
        pytest.skip(obstacle() or "takes minutes: make e2e-nodes")
    with TwoBoxes() as made:
        yield made


def appliance(network: TwoBoxes, box: int, models: str = SIM, program: str = BOOT, **variables: str) -> Appliance:
    nodes = {"BERTH_NODES": ",".join(network.addresses), "BERTH_NODES_KEY": "k" * 32}
    found = Appliance(models, BERTH_HOST="0.0.0.0", **{**nodes, **variables})
    found.command = network.command(box, sys.executable, "-c", program)
    found.url = f"http://{network.clients[box]}:{found.environ['BERTH_PORT']}"
    found.http.base_url = httpx.URL(found.url)
    return found


@contextmanager
def both(network: TwoBoxes, models: str = SIM, long_s: float = LONG_S, **variables: str) -> Iterator[Boxes]:
    with appliance(network, 0, models, **variables) as head, appliance(network, 1, models, **variables) as other:
        head.http.timeout = httpx.Timeout(long_s)
        found = Boxes(head=head, other=other, long_s=long_s)
        head.wait(found.serves, long_s)
        yield found


@pytest.fixture
def unused() -> Iterator[TwoBoxes]:
    """Two more boxes."""
    if not os.environ.get("E2E_NODES") or obstacle():
        pytest.skip(obstacle() or "takes minutes: make e2e-nodes")
    with TwoBoxes(pair=1) as made:
        yield made


@pytest.fixture(scope="module")
def boxes(network: TwoBoxes) -> Iterator[Boxes]:
    with both(network) as found:
        yield found


def report(what: str, began: float) -> None:
    sys.stderr.write(f"\n{what}: after {time.monotonic() - began:.1f} s (promised: {PROMISED_S:g} s)\n")


def test_the_head_serves_and_the_other_box_names_it(boxes: Boxes, network: TwoBoxes) -> None:
    assert boxes.head.chat("big").status_code == 200
    answer = boxes.other.chat("big")
    assert answer.status_code == 421
    assert f"http://{network.addresses[0]}:" in answer.json()["error"]["message"]


def test_a_dead_rank_starts_a_new_generation(boxes: Boxes) -> None:
    generation, began = boxes.generation(), time.monotonic()
    end(boxes.other.find("sim"))
    boxes.head.wait(lambda: boxes.replica(boxes.head).status is not ReplicaStatus.READY, LONG_S)
    report("a dead rank", began)
    boxes.serves_again(generation)


def test_a_cut_link_ends_the_ranks_on_both_sides(boxes: Boxes, network: TwoBoxes) -> None:
    generation, rank = boxes.generation(), boxes.other.find("sim")
    network.cut()
    began = time.monotonic()
    boxes.head.wait(lambda: boxes.replica(boxes.head).status is not ReplicaStatus.READY, LONG_S)
    report("a cut link, by the head", began)
    wait_for(lambda: not rank.is_running(), LONG_S, boxes.other.output)
    report("a cut link, by the other box", began)
    boxes.head_waits("waits for box 1 (10.77.0.2): no message for")
    assert boxes.head.chat("big").status_code == 503
    network.mend()
    boxes.serves_again(generation)


def test_a_stale_rank_is_ended_when_the_head_has_rebooted(boxes: Boxes) -> None:
    boxes.head_reboots()


def test_boxes_that_do_not_fit_are_named_on_the_head(unused: TwoBoxes) -> None:
    three = {"BERTH_NODES": "10.77.0.1,10.77.0.2,10.77.0.3"}
    with appliance(unused, 0) as head:
        for models, program, variables, reason in (
            (SIM, OTHER_VERSION + BOOT, {}, "the boxes differ: Berth: box 0 (10.77.0.1) has '"),
            (SIM.replace("big", "small"), BOOT, {}, "box 1 (10.77.0.2) has no big-sim"),
            (SIM, BOOT, {"BERTH_NODES_KEY": "x" * 32}, "another BERTH_NODES_KEY: set the same on every box"),
            (SIM.replace("nodes: 2", "nodes: 3"), BOOT, three, "BERTH_NODES differs: 10.77.0.2 has"),
        ):
            with appliance(unused, 1, models, program, **variables) as other:
                Boxes(head=head, other=other).head_waits(reason)
                other.wait(lambda box=other: box.get("/health").status_code == 200)  # type: ignore[misc] # a whole start
        assert "replica starting" not in head.output()


def test_an_address_on_a_bridge_is_named_in_the_plan(unused: TwoBoxes) -> None:
    unused.inside(unused.names[0], "ip", "link", "add", "docker0", "type", "bridge")
    unused.add_address(0, "docker0", "172.17.0.1/16")
    found = appliance(unused, 0, program=BOOT.replace("boot", "plan"), BERTH_NODES="172.17.0.1,10.77.0.2")
    try:
        assert found.run_to_end() == 0
        assert "172.17.0.1 is on docker0, a bridge of this box that others do not reach" in found.output()
    finally:
        found.close()


def dies_when_a_rank_does(network: TwoBoxes, model: dict[str, Any], home: Path, *rank: str) -> str:
    """The model's text, and a report of how soon a rank's death was seen. `rank`: words of its command line."""
    began = time.monotonic()
    with both(network, json.dumps({"big": {**model, "nodes": 2}}), REAL_S, BERTH_ENGINE_HOME=str(home)) as boxes:
        sys.stderr.write(f"\nready after {time.monotonic() - began:.0f} s\n")
        answer = boxes.head.chat("big", max_tokens=200, temperature=0).json()
        began = time.monotonic()
        end(boxes.other.find(*rank))
        boxes.head.wait(lambda: boxes.replica(boxes.head).status is not ReplicaStatus.READY, LONG_S)
        report("a dead rank of the real engine", began)
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("args", "env", "rank"),
    [
        ([], {}, ("serve", "--headless")),
        (["--distributed-executor-backend", "ray"], {"RAY_OVERRIDE_RESOURCES": '{"HPU": 1}'}, ("start", "--block")),
    ],
    ids=["ranks", "ray"],
)
def test_real_vllm_says_in_two_stages_what_it_says_in_one(
    unused: TwoBoxes, tiny_model: Path, args: list[str], env: dict[str, str], rank: tuple[str, ...]
) -> None:
    """In one stage it is the model's own text: test_continuation.py."""
    if not is_installed(HOME, VLLM.resolve()):
        pytest.skip("not installed: make e2e-nodes")
    engine = {"engine": "vllm", "args": args, "env": env}
    model = {"source": str(tiny_model), "context": 1024, "engines": [engine]}
    expected = json.loads((tiny_model / "script.json").read_text())["paragraph"]
    assert dies_when_a_rank_does(unused, model, HOME, *rank) == expected


def test_real_sglang_divided_over_two_boxes_says_what_it_says_on_one(
    unused: TwoBoxes, tiny_model: Path, tmp_path: Path
) -> None:
    """On one box: test_sglang.py."""
    installed = [folder for folder in SGLANGS if sglang_is_installed(folder)]
    if not installed:
        pytest.skip("the real SGLang is not installed: make e2e-sglang")
    (tmp_path / "sglang").symlink_to(installed[0])
    args = ["--mem-fraction-static", "0.1", "--max-total-tokens", "8192"]
    engine = {"engine": "sglang", "args": args, "env": {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}}  # a core for each rank
    model = {"source": str(tiny_model), "context": 1024, "engines": [engine]}
    expected = json.loads((tiny_model / "script.json").read_text())["paragraph"]
    assert dies_when_a_rank_does(unused, model, tmp_path, "serve", "--nnodes") == expected
