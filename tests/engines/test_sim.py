from berth.engines.sim import SimEngine
from berth.plan import DialectName, Task
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
    launch = SimEngine().launch(launch_order(gpus=0, context=None, extra_env={"A": "b"}))

    assert "vllm" in launch.argv
    assert "--context" not in launch.argv
    assert launch.env["A"] == "b"


def test_it_takes_no_gpu_memory() -> None:
    assert SimEngine().overhead_bytes(gpus=1) == 0
