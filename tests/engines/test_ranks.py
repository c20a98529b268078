"""Command lines and variables of engines that run on several boxes."""

import pytest

from berth.engines.base import LaunchOrder
from berth.engines.ray import ray_head, ray_worker
from berth.engines.registry import ENGINES
from berth.plan import DialectName, EngineName, Ranks
from tests.fakes.orders import launch_order


def order(rank: int = 0, *, ray: bool = False, gpus: int = 4) -> LaunchOrder:
    ranks = Ranks(
        nodes=2, rank=rank, head="10.0.0.1", own=f"10.0.0.{rank + 1}", port=29501, interface="ib0", url="x", ray=ray
    )
    return launch_order(gpus=gpus, ranks=ranks)


def line(engine: EngineName, given: LaunchOrder) -> str:
    return " ".join(ENGINES[engine].launch(given).argv)


@pytest.mark.parametrize("rank", [0, 1])
def test_vllm_divides_layers_among_boxes_and_each_among_gpus(rank: int) -> None:
    found = line(EngineName.VLLM, order(rank))
    assert f"--nnodes 2 --node-rank {rank} --master-addr 10.0.0.1 --master-port 29501" in found
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 2" in found
    assert ("--headless" in found) is bool(rank)


def test_vllm_on_ray_has_its_engine_on_the_head_alone() -> None:
    found = line(EngineName.VLLM, order(ray=True))
    assert "--pipeline-parallel-size 2 --distributed-executor-backend ray" in found
    assert "--nnodes" not in found
    worker = " ".join(ray_worker(order(1, ray=True)).argv)
    assert worker == (
        "/opt/engines/it/bin/ray start --address 10.0.0.1:29501 --node-ip-address 10.0.0.2 --num-gpus 4 "
        "--object-store-memory 1073741824 --disable-usage-stats --block"
    )
    head = ray_head(order(ray=True))
    assert " ".join(head.argv[1:8]) == "start --head --port 29501 --include-dashboard=false --node-ip-address 10.0.0.1"
    env = head.env
    assert (env["RAY_AUTH_MODE"], env["RAY_ADDRESS"], env["VLLM_HOST_IP"]) == ("token", "10.0.0.1:29501", "10.0.0.1")
    with pytest.raises(ValueError, match="runs on one box"):
        ray_head(launch_order())


@pytest.mark.parametrize("rank", [0, 1])
def test_sglang_divides_layers_among_the_gpus_of_all_boxes(rank: int) -> None:
    found = line(EngineName.SGLANG, order(rank))
    assert f"--tp-size 8 --nnodes 2 --node-rank {rank} --dist-init-addr 10.0.0.1:29501" in found
    assert found.count("--tp-size") == 1


def test_sim_has_its_rank() -> None:
    found = ENGINES[EngineName.SIM].launch(order(1, gpus=0))
    assert "--nnodes 2 --node-rank 1 --dist-init-addr 10.0.0.1:29501" in " ".join(found.argv)
    assert DialectName.VLLM in found.argv


@pytest.mark.parametrize("engine", [EngineName.VLLM, EngineName.SGLANG])
def test_the_interface_between_the_boxes_is_named(engine: EngineName) -> None:
    env = ENGINES[engine].launch(order(1)).env
    assert (env["NCCL_SOCKET_IFNAME"], env["GLOO_SOCKET_IFNAME"]) == ("ib0", "ib0")
    assert env["VLLM_HOST_IP" if engine is EngineName.VLLM else "SGLANG_HOST_IP"] == "10.0.0.2"
    assert "NCCL_SOCKET_IFNAME" not in ENGINES[engine].launch(launch_order()).env


def test_vllm_on_cpus_of_several_boxes_uses_processes_and_warms_up() -> None:
    """Without the warm-up a later stage has no buffers, and ends with the first request."""
    launch = ENGINES[EngineName.VLLM].launch(order(gpus=0))
    assert "--distributed-executor-backend" not in launch.argv
    assert "--enforce-eager" not in launch.argv
    assert '--compilation-config {"mode": 1} --pipeline-parallel-size 2' in " ".join(launch.argv)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in launch.env
    assert launch.env["TORCHDYNAMO_DISABLE"] == "1"
    assert "--enforce-eager" in ENGINES[EngineName.VLLM].launch(launch_order(gpus=0)).argv


def test_an_address_with_colons_is_bracketed() -> None:
    ranks = Ranks(nodes=2, rank=0, head="fd00::1", own="fd00::1", port=29501, interface="ib0", url="x")
    assert ranks.meeting == "[fd00::1]:29501"
