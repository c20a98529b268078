from dataclasses import replace

import pytest

from berth.engines.base import ModelFacts
from berth.engines.vllm import VllmEngine
from berth.plan import Gpu, Task
from tests.fakes.orders import GIB, estimate, gpu, launch_order

HERMES = "<tool_call>arguments</tool_call>"


def option(argv: tuple[str, ...], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def test_gets_its_share_of_each_gpu() -> None:
    argv = VllmEngine().launch(launch_order(gpus=2, memory_fraction=0.45)).argv

    assert argv[:3] == ("/opt/engines/it/bin/vllm", "serve", "Qwen/Qwen3-8B")
    assert option(argv, "--gpu-memory-utilization") == "0.450"
    assert option(argv, "--tensor-parallel-size") == "2"
    assert option(argv, "--max-model-len") == "32768"
    assert "--enforce-eager" not in argv


def test_is_one_process_without_compiler_on_the_cpu() -> None:
    launch = VllmEngine().launch(launch_order(gpus=0, dtype="float32", memory=estimate(kv_gib=1)))

    assert option(launch.argv, "--kv-cache-memory-bytes") == str(GIB)
    assert option(launch.argv, "--dtype") == "float32"
    assert option(launch.argv, "--distributed-executor-backend") == "uni"
    assert "--enforce-eager" in launch.argv
    assert "--gpu-memory-utilization" not in launch.argv
    assert launch.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert launch.env["TORCHDYNAMO_DISABLE"] == "1"


def test_small_cache_on_the_cpu_without_an_estimate() -> None:
    argv = VllmEngine().launch(launch_order(gpus=0, context=None)).argv

    assert option(argv, "--kv-cache-memory-bytes") == str(256 << 20)
    assert "--max-model-len" not in argv


def test_embedding_models_use_the_pooling_runner() -> None:
    argv = VllmEngine().launch(launch_order(task=Task.EMBED, model=ModelFacts(template=HERMES))).argv

    assert option(argv, "--runner") == "pooling"
    assert "--tool-call-parser" not in argv


def test_template_enables_tools_and_reasoning() -> None:
    argv = VllmEngine().launch(launch_order(model=ModelFacts(model_type="qwen3", template=HERMES + "<think>"))).argv

    assert "--enable-auto-tool-choice" in argv
    assert option(argv, "--tool-call-parser") == "hermes"
    assert option(argv, "--reasoning-parser") == "qwen3"


def test_user_arguments_come_last() -> None:
    launch = VllmEngine().launch(launch_order(extra_args=("--max-model-len", "1024"), revision="v1"))

    assert launch.argv[-2:] == ("--max-model-len", "1024")
    assert option(launch.argv, "--revision") == "v1"


def test_passes_its_key_by_a_variable() -> None:
    launch = VllmEngine().launch(launch_order())

    assert (launch.key_variable, launch.takes_key) == ("VLLM_API_KEY", True)
    assert "--api-key" not in launch.argv
    assert "VLLM_API_KEY" not in launch.env


def test_caches_are_per_version_gpu_and_model() -> None:
    launch = VllmEngine().launch(launch_order(version="0.33.0"))

    root = "/data/cache/vllm-0.33.0/nvidia-h100-80gb-hbm3-sm90"
    assert launch.env["VLLM_CACHE_ROOT"] == f"{root}/models/Qwen-Qwen3-8B/vllm"
    assert launch.env["DG_JIT_CACHE_DIR"] == f"{root}/deep_gemm"
    assert launch.env["VLLM_NO_USAGE_STATS"] == launch.env["VLLM_DO_NOT_TRACK"] == "1"
    assert f"{root}/triton" in launch.folders


@pytest.mark.parametrize(("gpus", "least_gib", "most_gib"), [(0, 0, 0), (1, 1, 5), (8, 2, 8)])
def test_overhead_grows_with_the_number_of_gpus(gpus: int, least_gib: int, most_gib: int) -> None:
    assert least_gib * GIB <= VllmEngine().overhead_bytes(gpus=gpus) <= most_gib * GIB


@pytest.mark.parametrize(
    ("gpus", "args", "requests"),
    [
        ((gpu(memory_gib=80),), (), 1024),
        ((gpu(memory_gib=48),), (), 256),
        ((gpu(memory_gib=80), gpu(memory_gib=48)), (), 256),
        ((replace(gpu(memory_gib=80), name="NVIDIA A100-SXM4-80GB"),), (), 256),
        ((), (), 8),
        ((), ("--max-num-seqs", "64", "--x"), 64),
        ((), ("--max_num_seqs=64", "-dp", "2"), 128),
        ((gpu(memory_gib=48),), ("--max-num-seqs", "many"), 256),
    ],
)
def test_concurrency_comes_from_options_and_gpus(gpus: tuple[Gpu, ...], args: tuple[str, ...], requests: int) -> None:
    order = replace(launch_order(extra_args=args), gpus=gpus)

    assert VllmEngine().concurrency(order) == requests


def test_a_guessed_context_is_left_to_vllm() -> None:
    """A figure that does not fit would stop its start."""
    launch = VllmEngine().launch(replace(launch_order(), context=8192, context_is_a_guess=True))

    assert option(launch.argv, "--max-model-len") == "auto"
    assert "length: vLLM finds the longest context that fits; 8192 tokens are an estimate" in launch.notes
    assert option(VllmEngine().launch(replace(launch_order(), context=8192)).argv, "--max-model-len") == "8192"


def test_a_mig_instance_gets_the_limits_of_its_own_size() -> None:
    """And not those of the GPU around it, as vLLM would."""
    order = replace(launch_order(), gpus=(replace(gpu(memory_gib=20), part_of=0),))

    argv = VllmEngine().launch(order).argv

    assert (option(argv, "--max-num-batched-tokens"), option(argv, "--max-num-seqs")) == ("2048", "256")
    assert option(VllmEngine().launch(launch_order()).argv, "--max-num-batched-tokens") is None


@pytest.mark.parametrize(("gpus", "flags"), [(0, 0), (1, 1)])
def test_sleep_enables_its_routes(gpus: int, flags: int) -> None:
    launch = VllmEngine().launch(launch_order(gpus=gpus, sleeps=True))

    assert launch.argv.count("--enable-sleep-mode") == flags  # on the CPU it would end with 1
    assert launch.env["VLLM_SERVER_DEV_MODE"] == "1"


def test_development_routes_are_closed_without_sleep() -> None:
    launch = VllmEngine().launch(launch_order())

    assert "--enable-sleep-mode" not in launch.argv
    assert "VLLM_SERVER_DEV_MODE" not in launch.env


def test_socket_replaces_host_and_port() -> None:
    argv = VllmEngine().launch(launch_order(socket="/run/berth/chat.sock")).argv

    assert option(argv, "--uds") == "/run/berth/chat.sock"
    assert not {"--host", "--port"} & set(argv)
    assert option(VllmEngine().launch(launch_order()).argv, "--port") == "21001"
