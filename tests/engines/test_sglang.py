import pytest
import yaml

from berth.engines.base import ModelFacts
from berth.engines.sglang import SglangEngine
from berth.plan import Task
from tests.fakes.orders import GIB, estimate, launch_order


def option(argv: tuple[str, ...], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def test_writes_the_command_line() -> None:
    launch = SglangEngine().launch(
        launch_order(gpus=2, model=ModelFacts(model_type="qwen3", template="<tool_call>arguments<think>"))
    )

    assert launch.argv[:4] == ("/opt/engines/it/bin/sglang", "serve", "--model-path", "Qwen/Qwen3-8B")
    assert option(launch.argv, "--tp-size") == "2"
    assert option(launch.argv, "--context-length") == "32768"
    assert option(launch.argv, "--tool-call-parser") == "qwen25"
    assert option(launch.argv, "--reasoning-parser") == "qwen3"
    assert "--enable-metrics" in launch.argv
    assert launch.env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"


@pytest.mark.parametrize(
    ("fraction", "memory", "static", "cap"),
    [
        (0.9, True, 0.9 * (1 - 4 / 72), None),  # alone: of the whole GPU, less what it takes beside
        (None, False, 0.9 * (1 - 4 / 72), None),
        (0.45, True, 1 - 4 / 36, str(10 * GIB >> 17)),  # beside another: of the share, capped in tokens
        (0.45, False, 1 - 4 / 36, None),
        (0.01, True, 0.1, str(10 * GIB >> 17)),  # nonsense stays within what it can start with
    ],
)
def test_computes_the_static_fraction(fraction: float | None, memory: bool, static: float, cap: str | None) -> None:
    order = launch_order(memory_fraction=fraction, memory=estimate() if memory else None)
    argv = SglangEngine().launch(order).argv

    assert float(option(argv, "--mem-fraction-static") or 0) == pytest.approx(static, abs=0.001)
    assert option(argv, "--max-total-tokens") == cap


def test_uses_torchs_kernels_on_the_cpu() -> None:
    launch = SglangEngine().launch(launch_order(gpus=0, dtype="float32"))

    assert option(launch.argv, "--device") == "cpu"
    assert option(launch.argv, "--dtype") == "float32"
    assert "--mem-fraction-static" not in launch.argv
    assert launch.env["SGLANG_USE_CPU_ENGINE"] == "1"


def merged(argv: tuple[str, ...], files: dict[str, str]) -> list[str]:
    """What SGLang makes of its command line: the file's options in front, each as `--key value`."""
    position = argv.index("--config")
    options: dict[str, str] = yaml.safe_load(files[argv[position + 1]].replace("{key}", "12e4"))
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*words, *argv[2:position], *argv[position + 2 :]]


def test_passes_its_key_by_a_configuration_file() -> None:
    launch = SglangEngine().launch(launch_order(extra_args=("--schedule-policy", "lpm")))

    path = "/run/berth/chat-engine.sglang.yaml"
    assert (list(launch.key_files), launch.takes_key, launch.key_variable) == ([path], True, "")
    assert merged(launch.argv, launch.key_files)[:4] == ["--api-key", "12e4", "--model-path", "Qwen/Qwen3-8B"]
    assert launch.argv[-2:] == ("--schedule-policy", "lpm")
    assert "--api-key" not in launch.argv


@pytest.mark.parametrize(
    ("arguments", "keyed"),
    [
        (("--config", "/own.yaml"), False),
        (("--tokenizer-worker-num", "4"), False),
        (("--tokenizer-worker-num=4",), False),
        (("--tokenizer-worker-num", "1"), True),
        (("--tokenizer-worker-num",), True),
        (("--tokenizer-worker-num", "many"), True),
    ],
)
def test_some_options_exclude_a_key(arguments: tuple[str, ...], keyed: bool) -> None:
    launch = SglangEngine().launch(launch_order(extra_args=arguments))

    assert launch.takes_key == keyed
    assert launch.argv.count("--config") == 1 - ("--config" not in arguments and not keyed)


def test_caches_are_in_one_folder_per_version() -> None:
    env = SglangEngine().launch(launch_order(version="0.5.23", gpus=0)).env

    assert env["SGLANG_CACHE_DIR"] == "/data/cache/sglang-0.5.23/cpu/sglang"
    assert env["SGLANG_JIT_CACHE_DIR"].startswith(env["SGLANG_CACHE_DIR"])


def test_embedding_models_get_their_option() -> None:
    assert "--is-embedding" in SglangEngine().launch(launch_order(task=Task.EMBED)).argv


@pytest.mark.parametrize(("gpus", "least_gib", "most_gib"), [(0, 0, 0), (1, 1, 6), (8, 2, 9)])
def test_overhead_grows_with_the_number_of_gpus(gpus: int, least_gib: int, most_gib: int) -> None:
    assert least_gib * GIB <= SglangEngine().overhead_bytes(gpus=gpus) <= most_gib * GIB


def test_name_with_a_colon_is_not_an_adapter() -> None:
    argv = SglangEngine().launch(launch_order(served_name="qwen3:8b")).argv

    assert option(argv, "--served-model-name") == "qwen3-8b"


def test_concurrency_is_unknown_unless_stated() -> None:
    assert SglangEngine().concurrency(launch_order()) is None
    assert SglangEngine().concurrency(launch_order(extra_args=("--max-running-requests=9",))) == 9


@pytest.mark.parametrize(("gpus", "sleeps"), [(0, True), (1, True), (1, False)])
def test_keeps_a_copy_of_its_weights_for_sleep(gpus: int, sleeps: bool) -> None:
    launch = SglangEngine().launch(launch_order(gpus=gpus, sleeps=sleeps))

    flags = {"--enable-memory-saver", "--enable-weights-cpu-backup"}
    assert flags & set(launch.argv) == (flags if gpus and sleeps else set())
    assert ("SGLANG_MEMORY_SAVER_CUDA_GRAPH" in launch.env) is bool(gpus and sleeps)
