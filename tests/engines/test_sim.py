from berth.engines.sim import SimEngine
from berth.plan import DialectName, Task
from berth.sim.options import KEY_VARIABLE, Options
from tests.fakes.orders import launch_order


def test_it_is_started_with_berths_own_interpreter() -> None:
    order = launch_order(gpus=0, dialect=DialectName.SGLANG, task=Task.EMBED, extra_args=("--ttft", "0.1"))
    launch = SimEngine().launch(order)

    assert launch.argv == (
        *("/opt/berth/bin/python", "-m", "berth", "sim", "--dialect", "sglang", "--host", "127.0.0.1"),
        *("--port", "21001", "--served-model-name", "chat", "--task", "embed", "--context", "32768", "--ttft", "0.1"),
    )
    assert all(type(word) is str for word in launch.argv)


def test_it_pretends_to_be_vllm_unless_told() -> None:
    launch = SimEngine().launch(launch_order(gpus=0, context=None))

    assert "vllm" in launch.argv
    assert "--context" not in launch.argv


def test_its_key_is_no_argument_and_the_hubs_token_is_not_for_it() -> None:
    launch = SimEngine().launch(launch_order(gpus=0))

    assert launch.key_variable == KEY_VARIABLE
    assert "--api-key" not in launch.argv
    assert "HF_TOKEN" in launch.unset


def test_it_takes_no_gpu_memory() -> None:
    assert SimEngine().overhead_bytes(gpus=1) == 0


def test_it_works_on_as_many_requests_as_it_is_told() -> None:
    assert SimEngine().concurrency(launch_order()) == Options().max_running
    assert SimEngine().concurrency(launch_order(extra_args=("--max-running", "4"))) == 4


def test_it_sleeps_where_it_is_told_so() -> None:
    assert "--can-sleep" in SimEngine().launch(launch_order(sleeps=True)).argv
    assert "--can-sleep" not in SimEngine().launch(launch_order()).argv
