"""What is imported once, and forked from then on."""

from dataclasses import replace

import pytest

from berth.boot.planner.preloads import preloads
from berth.plan import EngineName, Launch, Load, ModelRoute, Ranks, Replica, Task
from tests.fakes.plans import make_replica

ENV = {"HF_HOME": "/data/huggingface", "VLLM_CACHE_ROOT": "/data/cache/vllm"}


def vllm(name: str, argv: str = "/engines/vllm/bin/vllm", **env: str) -> Replica:
    launch = Launch(argv=(argv, "serve"), env=ENV | env)
    return replace(make_replica(name, launch=launch), engine=EngineName.VLLM)


def route(*replicas: str, load: Load = Load.ON_REQUEST) -> ModelRoute:
    return ModelRoute(name=replicas[0], source="x", task=Task.GENERATE, replicas=replicas, load=load)


def test_one_for_the_models_on_request_and_all_that_import_the_same() -> None:
    replicas = [
        vllm("always"),
        vllm("chat", VLLM_CACHE_ROOT="/data/cache/chat"),
        vllm("dev", VLLM_SERVER_DEV_MODE="1"),
        vllm("other", "/old/vllm/bin/vllm"),
        replace(vllm("sim"), engine=EngineName.SIM),
    ]
    (found,) = preloads([route("always", load=Load.ALWAYS), route("chat")], replicas, "auto")
    assert (found.name, found.like, found.replicas) == ("vllm.preload", "chat", ("always", "chat"))
    assert "vllm.v1.worker.cpu_worker" in found.modules
    assert {"BERTH_REPLICA", "VLLM_API_KEY"} < set(found.differing)
    assert found.replaced
    assert not found.adds


@pytest.mark.parametrize(
    ("load", "wish", "gpus", "is_found"),
    [
        (Load.ON_REQUEST, "auto", (), True),
        (Load.ON_REQUEST, "off", (), False),
        (Load.ALWAYS, "on", (), False),
        (Load.ON_REQUEST, "auto", (0,), False),
        (Load.ON_REQUEST, "on", (0,), True),
    ],
)
def test_on_gpus_only_where_that_is_wished(load: Load, wish: str, gpus: tuple[int, ...], *, is_found: bool) -> None:
    found = list(preloads([route("chat", load=load)], [replace(vllm("chat"), gpus=gpus)], wish))
    assert bool(found) is is_found
    if gpus and found:
        assert "vllm.v1.worker.gpu_worker" in found[0].modules
        assert found[0].adds == {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
        assert not found[0].replaced  # vLLM decides itself whether CUDA allows it


def test_what_runs_on_several_boxes_starts_by_itself() -> None:
    ranks = Ranks(nodes=2, rank=0, head="10.0.0.1", own="10.0.0.1", interface="eth0", port=1, url="http://a")
    assert not list(preloads([route("chat")], [replace(vllm("chat"), ranks=ranks)], "auto"))
