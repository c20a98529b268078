"""A running model planned again, with other arguments, options or another source: in the places that it has."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.revise import main, revise
from berth.errors import BerthError
from berth.ipc.revising import Revised, Wanted
from berth.plan import Plan
from berth.records.revisions import History
from tests.fakes.machine import gpus, host_info

TEXT = "chat: {source: Qwen/Qwen3-8B, engines: [vllm, sglang]}\nsmall: {source: m, engines: [sim]}"
SETTINGS = Settings(models=parse_models(TEXT))
ARGS = Wanted(model="chat", replica="chat-vllm", set=("args=--max-num-seqs 64",))


def machine(**changes: object) -> HostInfo:
    host = replace(host_info(*gpus(1)), history=History(key=b"k" * 32))
    return replace(host, **changes)  # type: ignore[arg-type] # any field


def running() -> Plan:
    return make_plan(SETTINGS, machine())


def test_only_what_is_wanted_changes() -> None:
    plan = running()
    found = revise(ARGS, plan, SETTINGS, machine(free_ports=lambda count: list(range(1, count + 1))))

    vllm, sglang = found.replicas
    before = plan.replica("chat-vllm")
    assert before.launch is not None
    assert vllm.launch is not None
    assert vllm.launch.argv == (*before.launch.argv, "--max-num-seqs", "64")
    assert (vllm.url, sglang) == (before.url, plan.replica("chat-sglang"))
    assert (found.changes, found.engines) == (("engines[0].args=--max-num-seqs 64",), ("vllm", "sglang"))
    assert found.says["vllm.args"] == "--max-num-seqs 64"
    assert found.route == plan.models[0]


def test_options_and_sources_are_those_of_all_engines() -> None:
    wanted = Wanted(
        model="chat", replica="chat-vllm", before=("context=2048",), source="BAAI/bge-m3", set=("context=1024",)
    )
    found = revise(replace(wanted, source=""), running(), SETTINGS, machine())

    assert [one.context for one in found.replicas] == [1024, 1024]
    assert found.route is not None
    assert (found.route.context, found.changes) == (1024, ("context=1024",))


def test_a_simulated_model_takes_another_source() -> None:
    found = revise(Wanted(model="small", replica="small-sim", source="other"), running(), SETTINGS, machine())

    assert found.route is not None
    assert (found.route.source, found.replicas[0].weights) == ("other", "sim other")


@pytest.mark.parametrize(
    ("wanted", "models", "reason"),
    [
        (ARGS, "chat: {source: Qwen/Qwen3-8B, engines: [vllm]}", "BERTH_MODELS has changed for 'chat'"),
        (ARGS, "other: {source: Qwen/Qwen3-8B}", "BERTH_MODELS has changed for 'chat'"),
        (replace(ARGS, set=("context=9000000",)), TEXT, "context"),
        (replace(ARGS, set=("standby=hot",)), TEXT, "no field that a migration can change"),
    ],
)
def test_what_cannot_be_planned_says_why(wanted: Wanted, models: str, reason: str) -> None:
    with pytest.raises(BerthError, match=reason):
        revise(wanted, running(), replace(SETTINGS, models=parse_models(models)), machine())


def test_an_engine_that_berth_has_chosen_is_planned_again_next_to_attached_ones() -> None:
    attached = "{url: 'http://127.0.0.1:9/v1', dialect: vllm}"
    text = f"chat: {{source: Qwen/Qwen3-8B}}\nboth: {{source: m, engines: [sim, {attached}]}}"
    settings = Settings(models=parse_models(text))
    plan = make_plan(settings, machine())
    chosen = revise(replace(ARGS, replica=plan.models[0].replicas[0]), plan, settings, machine())
    both = revise(Wanted(model="both", replica="both-sim", set=("args=--itl 3ms",)), plan, settings, machine())

    assert chosen.changes == ("vllm.args=--max-num-seqs 64",)
    assert [one.name for one in both.replicas] == ["both-sim"]
    other = replace(plan, replicas=tuple(replace(one, url="http://127.0.0.1:1") for one in plan.replicas))
    with pytest.raises(BerthError, match="would be another engine: change BERTH_MODELS, and restart"):
        revise(replace(ARGS, replica=plan.models[0].replicas[0]), other, settings, machine())


def test_other_gpus_need_a_restart() -> None:
    settings = replace(SETTINGS, models=parse_models("chat: {source: Qwen/Qwen3-8B, engines: [vllm]}"))
    plan = make_plan(settings, machine())
    moved = replace(plan, replicas=tuple(replace(one, gpus=(3,)) for one in plan.replicas))
    with pytest.raises(BerthError, match="has the GPUs 3, and would need the GPUs 0: change BERTH_MODELS, and restart"):
        revise(ARGS, moved, settings, machine())


def test_the_program_reads_what_berth_was_started_with(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    environ = {"BERTH_MODELS": "m=any@sim", "BERTH_RUN_DIR": str(run_dir), "BERTH_DATA": str(tmp_path)}
    environ |= {"BERTH_API_KEYS": "sk-secret-of-a-client", "BERTH_ADMIN_KEY": "sk-secret-of-the-operator"}
    environ |= {"BERTH_ROUTES": "[{key: default, engine: sim}]"}
    settings = Settings(models=parse_models("m=any@sim"), run_dir=str(run_dir), data_dir=str(tmp_path))
    plan = make_plan(settings, replace(machine(), history=History()))
    keys = make_keys(settings, plan, environ)
    assert "sk-secret" not in repr(keys.environ)
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(keys.to_json())

    def asked(**fields: object) -> Revised:
        wanted = msgspec.json.encode({"model": "m", "replica": "m-sim", **fields})
        return msgspec.json.decode(main(str(run_dir), wanted), type=Revised)

    found = asked(set=["args=--itl 3ms"])
    assert (found.error, found.changes) == ("", ("engines[0].args=--itl 3ms",))
    assert "Example: --set 'args=--max-num-seqs 64'" in asked(set=["x=1"]).error
    assert "expected" in asked(set=1).error.lower()
    assert "has changed for 'other'" in asked(model="other").error
