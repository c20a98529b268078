from dataclasses import replace

import pytest

from berth.engines.environment import UNSET, cache_folders, caches, clamped, engine_environment, share_bytes
from tests.fakes.orders import GIB, gpu, launch_order

CACHES = (
    *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
    *("TORCH_EXTENSIONS_DIR", "FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "TILELANG_CACHE_DIR"),
    "TVM_FFI_CACHE_DIR",
)


def test_names_gpus_by_uuid() -> None:
    env = engine_environment(launch_order(gpus=2), "vllm")

    assert env["CUDA_VISIBLE_DEVICES"] == f"{gpu(0).uuid},{gpu(1).uuid}"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_no_gpus_are_visible_on_the_cpu() -> None:
    assert engine_environment(launch_order(gpus=0), "vllm")["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("name", CACHES)
def test_caches_are_per_engine_version_and_gpu_kind(name: str) -> None:
    env = engine_environment(launch_order(version="0.33.0"), "vllm")

    assert env[name].startswith("/data/cache/vllm-0.33.0/nvidia-h100-80gb-hbm3-sm90")
    others = [launch_order(version="0.34.0"), launch_order(version="0.33.0", gpus=0)]
    assert env[name] not in [engine_environment(order, "vllm")[name] for order in others]
    assert env[name] != engine_environment(launch_order(version="0.33.0"), "sglang")[name]


def test_compiled_models_are_per_model_and_kernels_shared() -> None:
    one, other = (engine_environment(launch_order(source=source), "vllm") for source in ("a/b", "/data/models/b"))

    assert one["TORCHINDUCTOR_CACHE_DIR"].endswith("/models/a-b/inductor")
    assert other["TORCHINDUCTOR_CACHE_DIR"].endswith("/models/data-models-b/inductor")
    assert one["TRITON_CACHE_DIR"] == other["TRITON_CACHE_DIR"]
    assert one["HF_HOME"] == other["HF_HOME"] == "/data/huggingface"


def test_two_kinds_of_gpus_have_their_own_folder() -> None:
    old = replace(gpu(1), name="NVIDIA A100", compute_capability="8.0")

    folder = caches(launch_order(gpus=0, version="1"), "vllm").shared
    mixed = caches(replace(launch_order(version="1"), gpus=(gpu(0), old, gpu(2))), "vllm").shared

    assert (folder.name, mixed.name) == ("cpu", "nvidia-a100-sm80+nvidia-h100-80gb-hbm3-sm90")


@pytest.mark.parametrize("source", ["/" + "x" * 300, "/../..", "/a b;c%d\n"])
def test_makes_a_folder_name_of_any_source(source: str) -> None:
    folder = caches(launch_order(source=source), "vllm").model

    assert folder.parent.name == "models"
    assert 0 < len(folder.name) <= 100
    assert ".." not in folder.parts


def test_long_names_stay_unique() -> None:
    one, other = (caches(launch_order(source="/" + "x" * 300 + end), "vllm").model for end in "ab")

    assert one != other


def test_engines_download_and_report_nothing() -> None:
    env = engine_environment(launch_order(), "vllm")

    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == "1"
    assert env["DO_NOT_TRACK"] == env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"} <= set(UNSET)


def test_offline_flashinfer_reads_kernels_from_a_folder() -> None:
    offline = engine_environment(launch_order(offline=True), "vllm")

    assert offline["FLASHINFER_CUBINS_REPOSITORY"] == "/data/flashinfer-cubins"
    assert "FLASHINFER_CUBINS_REPOSITORY" not in engine_environment(launch_order(), "vllm")


def test_lists_the_folders_that_engines_expect() -> None:
    folders = cache_folders(engine_environment(launch_order(), "vllm"))

    assert "/data/huggingface" in folders
    assert all(folder.startswith("/data/") for folder in folders)


def test_path_starts_with_the_engine_and_python_is_isolated() -> None:
    assert engine_environment(launch_order(), "vllm")["PATH"].startswith("/opt/engines/it/bin:")
    assert {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} <= set(UNSET)


def test_share_is_of_the_smallest_gpu() -> None:
    order = launch_order(gpus=0, memory_fraction=0.5)

    assert share_bytes(order) == 0
    assert share_bytes(launch_order(gpus=1, memory_fraction=0.5)) == 40 * GIB


def test_clamps_fractions() -> None:
    assert [clamped(value, 0.1, 0.9) for value in (-1, 0.5, 2)] == ["0.100", "0.500", "0.900"]
