from berth.engines.sim import SimEngine
from berth.plan import DialectName, Task
from berth.sim.options import KEY_VARIABLE, Options
from tests.fakes.orders import launch_order


def test_starts_with_berths_interpreter() -> None:
    order = launch_order(gpus=0, dialect=DialectName.SGLANG, task=Task.EMBED, extra_args=("--ttft", "0.1"))
    launch = SimEngine().launch(order)

    assert launch.argv == (
        *("/opt/berth/bin/python", "-m", "berth", "sim", "--dialect", "sglang", "--host", "127.0.0.1"),
        *("--port", "21001", "--served-model-name", "chat", "--task", "embed", "--context", "32768", "--ttft", "0.1"),
    )
    assert all(type(word) is str for word in launch.argv)


def test_speaks_vllms_dialect_by_default() -> None:
    launch = SimEngine().launch(launch_order(gpus=0, context=None))

    assert "vllm" in launch.argv
    assert "--context" not in launch.argv


def test_key_is_a_variable_and_hub_tokens_are_unset() -> None:
    launch = SimEngine().launch(launch_order(gpus=0))

    assert launch.key_variable == KEY_VARIABLE
    assert "--api-key" not in launch.argv
    assert "HF_TOKEN" in launch.unset


def test_needs_no_gpu_memory() -> None:
    assert SimEngine().overhead_bytes(gpus=1) == 0


def test_concurrency_comes_from_its_options() -> None:
    assert SimEngine().concurrency(launch_order()) == Options().max_running
    assert SimEngine().concurrency(launch_order(extra_args=("--max-running", "4"))) == 4


def test_sleeps_only_if_ordered() -> None:
    assert "--can-sleep" in SimEngine().launch(launch_order(sleeps=True)).argv
    assert "--can-sleep" not in SimEngine().launch(launch_order()).argv
