from berth.engines.environment import UNSET, clamped, engine_environment, share_bytes
from tests.fakes.orders import GIB, gpu, launch_order


def test_gpus_are_named_by_uuid() -> None:
    env = engine_environment(launch_order(gpus=2), "vllm")

    assert env["CUDA_VISIBLE_DEVICES"] == f"{gpu(0).uuid},{gpu(1).uuid}"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_without_gpus_the_engine_sees_none() -> None:
    assert engine_environment(launch_order(gpus=0), "vllm")["CUDA_VISIBLE_DEVICES"] == ""


def test_downloads_are_shared_and_caches_are_not() -> None:
    vllm, sglang = (engine_environment(launch_order(), name) for name in ("vllm", "sglang"))

    assert vllm["HF_HOME"] == sglang["HF_HOME"] == "/data/huggingface"
    for name in ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"):
        assert vllm[name].startswith("/data/cache/vllm")
        assert sglang[name].startswith("/data/cache/sglang")


def test_offline_is_said_to_the_hub() -> None:
    assert engine_environment(launch_order(offline=True), "vllm")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in engine_environment(launch_order(), "vllm")


def test_the_engines_own_programs_come_first_and_nothing_points_python_elsewhere() -> None:
    assert engine_environment(launch_order(), "vllm")["PATH"].startswith("/opt/engines/it/bin:")
    assert {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} <= set(UNSET)


def test_the_share_is_that_of_the_smallest_gpu() -> None:
    order = launch_order(gpus=0, memory_fraction=0.5)

    assert share_bytes(order) == 0
    assert share_bytes(launch_order(gpus=1, memory_fraction=0.5)) == 40 * GIB


def test_fractions_stay_within_limits() -> None:
    assert [clamped(value, 0.1, 0.9) for value in (-1, 0.5, 2)] == ["0.100", "0.500", "0.900"]
