import pytest
import yaml

from berth.canonical import Json
from berth.engines.base import ModelFacts
from berth.engines.trtllm import TrtllmEngine
from berth.errors import PlacementError
from berth.plan import Launch, Task
from tests.fakes.orders import GIB, estimate, launch_order

# Keys of 1.2.1's options that may stand in the file: an unknown one stops the start.
KNOWN_KEYS = {
    "tensor_parallel_size",
    "guided_decoding_backend",
    "enable_iter_perf_stats",
    "return_perf_metrics",
    "kv_cache_config",
    "revision",
    "reasoning_parser",
}


def options_of(launch: Launch) -> Json:
    (text,) = launch.files.values()
    document: Json = yaml.safe_load(text)
    return document


def test_command_line_is_short_and_the_rest_is_in_the_file() -> None:
    launch = TrtllmEngine().launch(
        launch_order(gpus=2, model=ModelFacts(model_type="qwen3", template="<tool_call>arguments<think>"))
    )

    assert launch.argv[:3] == ("/opt/engines/it/bin/trtllm-serve", "serve", "Qwen/Qwen3-8B")
    assert launch.argv[-2:] == ("--extra_llm_api_options", "/run/berth/chat-engine.trtllm.yaml")
    assert list(launch.files) == ["/run/berth/chat-engine.trtllm.yaml"]
    assert options_of(launch)["tensor_parallel_size"] == 2
    assert options_of(launch)["reasoning_parser"] == "qwen3"
    assert "qwen3" in launch.argv


def test_has_no_key_and_its_own_caches() -> None:
    launch = TrtllmEngine().launch(launch_order(version="1.2.1"))

    assert not launch.takes_key
    assert launch.env["TRTLLM_DG_CACHE_DIR"].startswith("/data/cache/trtllm-1.2.1/nvidia-h100-80gb-hbm3-sm90/")
    assert launch.env["TRTLLM_NO_USAGE_STATS"] == "1"
    assert set(launch.folders) <= set(launch.env.values())


def test_structured_output_and_statistics_are_always_on() -> None:
    options = options_of(TrtllmEngine().launch(launch_order(revision="v1", extra_args=("--log_level", "info"))))

    assert options["guided_decoding_backend"] == "xgrammar"
    assert options["enable_iter_perf_stats"] is True
    assert options["return_perf_metrics"] is True
    assert options["revision"] == "v1"
    assert set(options) <= KNOWN_KEYS


@pytest.mark.parametrize(
    ("fraction", "memory", "config"),
    [
        (None, False, {"free_gpu_memory_fraction": 0.9}),
        (0.5, False, {"free_gpu_memory_fraction": 0.5}),
        (0.9, True, {"free_gpu_memory_fraction": round((72 - 16 - 4) / (80 - 16), 3)}),
        (None, True, {"free_gpu_memory_fraction": round((72 - 16 - 4) / (80 - 16), 3)}),
        (0.45, True, {"free_gpu_memory_fraction": round(10 / (36 - 16), 3), "max_tokens": 10 * GIB >> 17}),
        (0.1, True, {"free_gpu_memory_fraction": 0.95, "max_tokens": 10 * GIB >> 17}),
    ],
)
def test_computes_the_kv_cache_fraction(fraction: float | None, memory: bool, config: Json) -> None:
    order = launch_order(memory_fraction=fraction, memory=estimate() if memory else None)

    assert options_of(TrtllmEngine().launch(order))["kv_cache_config"] == config


@pytest.mark.parametrize(("name", "link"), [("chat", "chat"), ("Qwen/Qwen3-8B", "Qwen--Qwen3-8B")])
def test_links_a_local_model_under_its_public_name(name: str, link: str) -> None:
    launch = TrtllmEngine().launch(launch_order(source="/data/models/q", served_name=name))

    assert launch.links == {f"/run/berth/models/chat-engine/{link}": "/data/models/q"}
    assert launch.argv[2] == f"/run/berth/models/chat-engine/{link}"


@pytest.mark.parametrize(
    ("gpus", "task", "words"),
    [(0, Task.GENERATE, "NVIDIA GPUs only"), (1, Task.EMBED, "no embeddings"), (1, Task.RERANK, "to rerank")],
)
def test_rejects_unsupported_models_with_an_alternative(gpus: int, task: Task, words: str) -> None:
    with pytest.raises(PlacementError, match=words):
        TrtllmEngine().launch(launch_order(gpus=gpus, task=task))


@pytest.mark.parametrize(("gpus", "least_gib", "most_gib"), [(0, 0, 0), (1, 1, 7), (8, 2, 9)])
def test_overhead_grows_with_the_number_of_gpus(gpus: int, least_gib: int, most_gib: int) -> None:
    assert least_gib * GIB <= TrtllmEngine().overhead_bytes(gpus=gpus) <= most_gib * GIB


def test_concurrency_is_the_batch_size() -> None:
    assert TrtllmEngine().concurrency(launch_order()) == 2048
    assert TrtllmEngine().concurrency(launch_order(extra_args=("--max_batch_size", "64"))) == 64
