from dataclasses import replace

import pytest

from berth.engines.environment import UNSET, cache_folders, caches, clamped, engine_environment, share_bytes
from tests.fakes.orders import GIB, gpu, launch_order

CACHES = (
    *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
    *("TORCH_EXTENSIONS_DIR", "FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "TILELANG_CACHE_DIR"),
    "TVM_FFI_CACHE_DIR",
)


def test_gpus_are_named_by_uuid() -> None:
    env = engine_environment(launch_order(gpus=2), "vllm")

    assert env["CUDA_VISIBLE_DEVICES"] == f"{gpu(0).uuid},{gpu(1).uuid}"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_without_gpus_the_engine_sees_none() -> None:
    assert engine_environment(launch_order(gpus=0), "vllm")["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_is_of_one_engine_version_and_kind_of_gpu(name: str) -> None:
    env = engine_environment(launch_order(version="0.33.0"), "vllm")

    assert env[name].startswith("/data/cache/vllm-0.33.0/nvidia-h100-80gb-hbm3-sm90")
    others = [launch_order(version="0.34.0"), launch_order(version="0.33.0", gpus=0)]
    assert env[name] not in [engine_environment(order, "vllm")[name] for order in others]
    assert env[name] != engine_environment(launch_order(version="0.33.0"), "sglang")[name]


def test_what_is_compiled_of_a_model_is_the_models_and_kernels_are_shared() -> None:
    one, other = (engine_environment(launch_order(source=source), "vllm") for source in ("a/b", "/data/models/b"))

    assert one["TORCHINDUCTOR_CACHE_DIR"].endswith("/models/a-b/inductor")
    assert other["TORCHINDUCTOR_CACHE_DIR"].endswith("/models/data-models-b/inductor")
    assert one["TRITON_CACHE_DIR"] == other["TRITON_CACHE_DIR"]
    assert one["HF_HOME"] == other["HF_HOME"] == "/data/huggingface"


def test_gpus_of_two_kinds_have_a_folder_of_their_own() -> None:
    old = replace(gpu(1), name="NVIDIA A100", compute_capability="8.0")

    folder = caches(launch_order(gpus=0, version="1"), "vllm").shared
    mixed = caches(replace(launch_order(version="1"), gpus=(gpu(0), old, gpu(2))), "vllm").shared

    assert (folder.name, mixed.name) == ("cpu", "nvidia-a100-sm80+nvidia-h100-80gb-hbm3-sm90")


@pytest.mark.parametrize("source", ["/" + "x" * 300, "/../..", "/a b;c%d\n"])
def test_any_source_makes_a_folders_name(source: str) -> None:
    folder = caches(launch_order(source=source), "vllm").model

    assert folder.parent.name == "models"
    assert 0 < len(folder.name) <= 100
    assert ".." not in folder.parts


def test_long_names_that_differ_at_the_end_are_told_apart() -> None:
    one, other = (caches(launch_order(source="/" + "x" * 300 + end), "vllm").model for end in "ab")

    assert one != other


def test_engines_download_nothing_and_report_nothing() -> None:
    env = engine_environment(launch_order(), "vllm")

    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == "1"
    assert env["DO_NOT_TRACK"] == env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"} <= set(UNSET)


def test_offline_the_kernels_that_flashinfer_would_download_come_from_a_folder() -> None:
    offline = engine_environment(launch_order(offline=True), "vllm")

    assert offline["FLASHINFER_CUBINS_REPOSITORY"] == "/data/flashinfer-cubins"
    assert "FLASHINFER_CUBINS_REPOSITORY" not in engine_environment(launch_order(), "vllm")


def test_boot_makes_folders_that_engines_expect() -> None:
    folders = cache_folders(engine_environment(launch_order(), "vllm"))

    assert "/data/huggingface" in folders
    assert all(folder.startswith("/data/") for folder in folders)


def test_the_engines_own_programs_come_first_and_nothing_points_python_elsewhere() -> None:
    assert engine_environment(launch_order(), "vllm")["PATH"].startswith("/opt/engines/it/bin:")
    assert {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} <= set(UNSET)


def test_the_share_is_that_of_the_smallest_gpu() -> None:
    order = launch_order(gpus=0, memory_fraction=0.5)

    assert share_bytes(order) == 0
    assert share_bytes(launch_order(gpus=1, memory_fraction=0.5)) == 40 * GIB


def test_fractions_stay_within_limits() -> None:
    assert [clamped(value, 0.1, 0.9) for value in (-1, 0.5, 2)] == ["0.100", "0.500", "0.900"]
