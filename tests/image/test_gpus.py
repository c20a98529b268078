"""What a container makes of its GPUs. They are fake, and so are the engines behind the plan: they check what they are
given, and answer.
"""

import json
from typing import Any

import pytest

from tests.image.container import TINY, WITH_MODEL, Container, Ended, run_to_end

pytestmark = [pytest.mark.image, pytest.mark.timeout(180), pytest.mark.usefixtures("fake_gpus")]

ENOUGH_SHM = ("--shm-size", "32g")


def gpus(count: int, *more: str) -> tuple[str, ...]:
    return ("--gpus", "all", "--env", f"FAKE_GPUS={count}", *(f"--env={one}" for one in more), *WITH_MODEL)


def planned(models: str, options: tuple[str, ...]) -> dict[str, Any]:
    ended = run_to_end("plan", "--json", models=models, options=options)
    assert ended.code == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def plan_fails(models: str, options: tuple[str, ...]) -> Ended:
    ended = run_to_end(models=models, options=options)
    assert ended.code == 78, (ended.stdout, ended.stderr)
    return ended


@pytest.mark.parametrize("count", [1, 2, 8])
def test_plans_with_all_gpus(count: int) -> None:
    models = " ".join(f"m{number}={TINY}@sglang" for number in range(count))
    plan = planned(models, gpus(count))
    assert len(plan["inventory"]["gpus"]) == count
    assert sorted(gpu for replica in plan["replicas"] for gpu in replica["gpus"]) == list(range(count))


def test_plans_with_selected_gpus() -> None:
    options = ("--gpus", '"device=1,3"', "--env", "FAKE_GPUS=4", *WITH_MODEL)
    assert len(planned(f"m={TINY}@sglang", options)["inventory"]["gpus"]) == 2


def test_without_gpus_it_names_the_next_step() -> None:
    ended = plan_fails(f"m={TINY}@sglang", WITH_MODEL)
    assert "--gpus all" in ended.stderr
    assert "sim" in ended.stderr


def test_reports_a_driver_without_gpus() -> None:
    assert "lists no GPU" in plan_fails(f"m={TINY}@sglang", gpus(0)).stderr


def test_reports_gpus_in_use_by_other_processes() -> None:
    ended = plan_fails(f"m={TINY}@sglang", gpus(1, "FAKE_GPU_MIB=24576", "FAKE_GPU_USED_MIB=24000"))
    assert "stranger" in ended.stderr
    assert "4242" in ended.stderr


def test_reports_an_old_driver() -> None:
    ended = run_to_end("doctor", models=f"m={TINY}@sglang", options=gpus(1, "FAKE_CUDA=12040"))
    assert "CUDA 12.4" in ended.stdout
    assert "Update the NVIDIA driver" in ended.stdout


def test_reports_too_little_shared_memory_for_two_gpus() -> None:
    models = f"m: {{source: {TINY}, engines: [sglang], gpus: 2}}"
    ended = run_to_end(models=models, options=gpus(2))
    assert ended.code == 69
    assert "--shm-size" in ended.stderr


def test_engines_on_gpus_accept_their_arguments_and_serve() -> None:
    """Two models, each on an engine and a GPU of its own."""
    with Container(f"a={TINY}@sglang b={TINY}@trtllm", options=gpus(2)) as container:
        container.wait_ready()
        assert container.chat("a").headers["x-berth-engine"] == "sglang"
        assert container.chat("b").headers["x-berth-engine"] == "trtllm"
        visible = {
            name: environ_of(container, container.find(program).pid)["CUDA_VISIBLE_DEVICES"]
            for name, program in (
                ("a", "/opt/engines/sglang/bin/sglang"),
                ("b", "/opt/engines/trtllm/bin/trtllm-serve"),
            )
        }
        assert len(set(visible.values())) == 2
        assert all(uuid.startswith("GPU-") for uuid in visible.values())


def test_one_model_on_eight_gpus() -> None:
    models = f"m: {{source: {TINY}, engines: [sglang], gpus: 8}}"
    with Container(models, options=(*gpus(8), *ENOUGH_SHM)) as container:
        assert container.wait_ready().chat("m").status_code == 200
        argv = container.find("/opt/engines/sglang/bin/sglang").argv
        assert argv[argv.index("--tp-size") + 1] == "8"
        assert "--shm-size" not in container.logs()


def test_two_models_share_a_gpu() -> None:
    models = f"m: {{source: {TINY}, engines: [sglang, trtllm], standby: hot}}"
    with Container(models, options=gpus(1)) as container:
        container.wait(lambda: {one["status"] for one in container.replicas().values()} == {"ready"})
        container.kill(container.find("/opt/engines/sglang/bin/sglang"))
        assert container.chat("m").headers["x-berth-engine"] == "trtllm"


def test_unknown_engine_option_is_the_reported_cause() -> None:
    models = f"m: {{source: {TINY}, engines: [sglang], sglang: {{args: [--no-such-option]}}}}"
    with Container(models, options=gpus(1)) as container:
        container.wait(lambda: container.replicas()["m-sglang"]["status"] == "failed")
        assert "--no-such-option" in container.replicas()["m-sglang"]["reason"]


def environ_of(container: Container, pid: int) -> dict[str, str]:
    rows = container.execute("sh", "-c", f"tr '\\0' '\\n' </proc/{pid}/environ").splitlines()
    return dict(row.split("=", 1) for row in rows if "=" in row)
