"""Boot as a table: environment and machine in; plan, programs, exit code and message out. Real processes throughout."""

import configparser
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from berth.boot.supervisord_conf import render
from berth.plan import Plan
from tests.fakes.boot import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)
    assert not (tmp_path / "run" / "supervisord.conf").exists(), "a plan or a refusal wrote a configuration"


needs_gpus = pytest.mark.skipif(shutil.which("cc") is None, reason="the fake NVML library is made with cc")


def programs(plan: Plan) -> list[str]:
    conf = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    conf.read_string(render(plan, python=sys.executable))
    return [section.removeprefix("program:") for section in conf.sections() if section.startswith("program:")]


@pytest.mark.parametrize(
    ("models", "replicas", "started"),
    [
        ("m=any@sim", ["m-sim"], ["m-sim"]),
        ("m=any@sim:vllm,sim:sglang,sim:trtllm", ["m-sim", "m-sim-2", "m-sim-3"], ["m-sim", "m-sim-2", "m-sim-3"]),
        ("peer=http://127.0.0.1:9100/v1", ["peer-attached"], []),
        ("a/B=any@sim b=any@sim", ["a-b-sim", "b-sim"], ["a-b-sim", "b-sim"]),
        (
            "{m: {engines: [{engine: sim, dialect: sglang}, {url: 'http://127.0.0.1:1', dialect: vllm}], source: x}}",
            ["m-sim", "m-attached"],
            ["m-sim"],
        ),
    ],
)
def test_without_a_gpu(machine: Machine, models: str, replicas: Sequence[str], started: Sequence[str]) -> None:
    plan = machine.plan(models)
    assert [replica.name for replica in plan.replicas] == replicas
    assert set(programs(plan)) == {"control", "router", *(["bench"] if started else []), *started}
    assert plan.inventory.gpus == ()


@needs_gpus
@pytest.mark.parametrize(
    ("count", "weights_gib", "gpus"),
    [
        (1, 15.3, (0,)),
        (2, 15.3, (0,)),
        (2, 100, (0, 1)),
        (8, 100, (0, 1)),
        (8, 250, (0, 1, 2, 3)),
        (8, 400, (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_model_gets_the_fewest_gpus(machine: Machine, count: int, weights_gib: float, gpus: Sequence[int]) -> None:
    machine.gpus(count)
    plan = machine.plan(f"m={machine.model(weights_gib)}@vllm")
    (replica,) = plan.replicas
    assert (len(plan.inventory.gpus), replica.gpus) == (count, gpus)
    assert replica.launch is not None
    assert _after(replica.launch.argv, "--tensor-parallel-size", "1") == str(len(gpus))
    assert len(replica.launch.env["CUDA_VISIBLE_DEVICES"].split(",")) == len(gpus)


@needs_gpus
def test_models_share_eight_gpus_without_overcommitting(machine: Machine) -> None:
    machine.gpus(8)
    small, large = machine.model(15.3), machine.model(100)
    plan = machine.plan(f"a={small}@vllm b={large}@vllm,sglang c={small}@sglang")
    used: dict[int, float] = {}
    cold = {name for model in plan.models for name in model.replicas[1:]}
    for replica in plan.replicas:
        for gpu in replica.gpus if replica.name not in cold else ():
            used[gpu] = used.get(gpu, 0) + (replica.memory_fraction or 0)
    assert used
    assert max(used.values()) <= 0.9 + 1e-6
    assert plan.replica("b-sglang").gpus == plan.replica("b-vllm").gpus


@needs_gpus
def test_hot_standby_divides_the_memory(machine: Machine) -> None:
    machine.gpus(1)
    text = f"{{m: {{source: {machine.model(15.3)}, engines: [vllm, sglang], standby: hot, context: 8192}}}}"
    first, second = machine.plan(text).replicas
    assert first.gpus == second.gpus == (0,)
    assert (first.memory_fraction or 0) + (second.memory_fraction or 0) <= 0.9 + 1e-6


@needs_gpus
def test_warm_standby_has_sleep_requests(machine: Machine) -> None:
    machine.gpus(1)
    text = f"{{m: {{source: {machine.model(0.5)}, engines: [sglang, vllm, sglang], standby: warm, context: 8192}}}}"
    first, second, third = machine.plan(text).replicas
    assert first.gpus == second.gpus == third.gpus == (0,)
    assert first.memory_fraction == second.memory_fraction == third.memory_fraction == pytest.approx(0.85)
    assert [one.sleep is not None for one in (first, second, third)] == [False, True, True]
    commands = [one.launch.argv if one.launch else () for one in (first, second, third)]
    assert ["--enable-memory-saver" in command for command in commands] == [False, False, True]
    assert ["--enable-sleep-mode" in command for command in commands] == [False, True, False]


@needs_gpus
def test_rejects_sleeping_engines_without_memory(machine: Machine) -> None:
    machine.gpus(8, total_gib=4096)
    text = f"{{m: {{source: {machine.model(8000)}, engines: [vllm, sglang], standby: warm, context: 8192}}}}"
    done = machine.run("plan", BERTH_MODELS=text)
    assert (done.returncode, done.stdout) == (69, "")
    assert "engines that sleep keep 8000.0 GiB of weights in memory (m)" in done.stderr


@needs_gpus
def test_chooses_an_engine_and_gives_the_reason(machine: Machine) -> None:
    machine.gpus(1)
    (replica,) = machine.plan(f"m={machine.model(15.3)}", BERTH_ENGINES="sglang,vllm").replicas
    assert replica.engine == "sglang"
    assert "first of BERTH_ENGINES" in replica.reason


REFUSALS: list[tuple[dict[str, str], int, list[str]]] = [
    ({}, 78, ["BERTH_MODELS: not set", "Example: BERTH_MODELS="]),
    ({"BERTH_MODELS": "m=any@sim", "BERTH_PORT": "http"}, 78, ["BERTH_PORT='http'", "1 to 65535"]),
    ({"BERTH_MODELS": "m=any@sim", "BERTH_MODEL": "x"}, 78, ["BERTH_MODEL", "did you mean BERTH_MODELS"]),
    ({"BERTH_MODELS": "m=any@vlm", "BERTH_MAX_BODY": "lots"}, 78, ["'vlm'", "did you mean", "BERTH_MAX_BODY='lots'"]),
    ({"BERTH_MODELS": "m=/no/such/model@vllm"}, 78, ["/no/such/model"]),
    ({"BERTH_MODELS": "{m: {source: x, engines: [sim], standby: warm}}"}, 78, ["standby", "no second engine"]),
    ({"BERTH_MODELS": "m: [", "BERTH_LOG_FORMAT": "xml"}, 78, ["BERTH_MODELS", "BERTH_LOG_FORMAT='xml'"]),
    ({"BERTH_MODELS": "m=any@sim", "BERTH_API_KEYS_FILE": "/no/such/file"}, 78, ["BERTH_API_KEYS_FILE"]),
]


@pytest.mark.parametrize("command", ["plan", "boot"])
@pytest.mark.parametrize(("variables", "code", "words"), REFUSALS, ids=[str(row[2]) for row in REFUSALS])
def test_rejects_invalid_configurations(
    machine: Machine, command: str, variables: dict[str, str], code: int, words: Sequence[str]
) -> None:
    done = machine.run(command, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


@needs_gpus
@pytest.mark.parametrize(
    ("total_gib", "weights_gib", "words"),
    [
        (24, 100, ["GPU 0", "weights 100.0 GiB", "8 GPUs"]),
        (80, 70, ["GPU 0", "BERTH_GPU_MEMORY_FRACTION"]),
    ],
)
def test_reports_the_sum_and_what_would_fit(
    machine: Machine, total_gib: int, weights_gib: float, words: Sequence[str]
) -> None:
    machine.gpus(1, total_gib)
    done = machine.run("plan", BERTH_MODELS=f"m={machine.model(weights_gib)}@vllm")
    assert (done.returncode, done.stdout) == (78, "")
    assert all(word in done.stderr for word in words), done.stderr


def test_gpu_engine_without_a_gpu_says_what_to_do(machine: Machine) -> None:
    done = machine.run("plan", BERTH_MODELS=f"m={machine.model(1)}@vllm")
    assert done.returncode == 78
    assert "--gpus all" in done.stderr
    assert "sim" in done.stderr


def test_config_shows_settings_when_the_plan_fails(machine: Machine) -> None:
    done = machine.run("config", BERTH_MODELS="m=/no/such/model@vllm", BERTH_PORT="9000")
    assert "9000" in done.stdout
    assert "/no/such/model" in done.stdout.split("BERTH_PORT")[1]


@pytest.mark.slow
def test_plan_and_config_show_no_secret(machine: Machine) -> None:
    secrets = {"BERTH_API_KEYS": "sk-very-secret", "BERTH_ADMIN_KEY": "adm-very-secret", "HF_TOKEN": "hf_very_secret"}
    for command in (["plan"], ["plan", "--json"], ["config"], ["doctor"], ["doctor", "--json"]):
        done = machine.run(*command, BERTH_MODELS="m=any@sim", **secrets)
        assert done.stdout
        assert not any(value in done.stdout + done.stderr for value in secrets.values()), command


@pytest.mark.slow
@pytest.mark.parametrize("command", ["env", "doctor", "plan", "config"])
def test_commands_for_people_work(machine: Machine, command: str) -> None:
    done = machine.run(command, BERTH_MODELS="m=any@sim")
    assert done.returncode in (0, 1)
    assert len(done.stdout) > 100
    assert done.stderr == ""


def _after(argv: Sequence[str], flag: str, missing: Any) -> Any:
    return argv[list(argv).index(flag) + 1] if flag in argv else missing
