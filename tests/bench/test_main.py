"""The command's options, and what it does before anything is measured."""

import asyncio
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.bench import main
from berth.bench.lease import DeniedError
from berth.bench.main import Options, Progress
from berth.bench.plan_points import QUICK, Profile
from berth.bench.workload import PRESETS, Workload
from berth.cli import main as cli
from berth.errors import ConfigError, ControlError
from berth.ipc import journal
from berth.ipc.bench import Bench, Order
from berth.ipc.bench import path as order_file
from berth.plan import DialectName, Keys, Launch, ModelRoute, Plan, RunPaths, Task
from berth.records import results
from berth.records.results import Outcome, Point, Slo
from tests.bench.results_of import broken, engine, result, standard
from tests.bench.test_lease import Control
from tests.fakes.plans import make_plan, make_replica
from tests.ipc.test_journal import Part
from tests.sim.harness import running

LAUNCH = Launch(argv=("x",))


def plan_of(run_dir: Path, *routes: ModelRoute) -> Plan:
    replicas = [
        replace(make_replica(name, launch=LAUNCH), dialect=DialectName(dialect), context=8192, served_name="sim")
        for name, dialect in (("chat-a", "vllm"), ("chat-b", "sglang"), ("chat-c", "sglang"))
    ]
    replicas.append(make_replica("chat-attached", launch=None))
    chat = ModelRoute(
        name="chat", aliases=("gpt",), source="x", task=Task.GENERATE,
        replicas=("chat-attached", "chat-a", "chat-b", "chat-c"),
    )  # fmt: skip
    paths = RunPaths(run_dir=str(run_dir), data_dir=str(run_dir / "data"))
    return replace(make_plan(str(run_dir), *replicas), models=(chat, *routes), paths=paths)


def test_model_is_named_by_its_name_or_an_alias(tmp_path: Path) -> None:
    embed = ModelRoute(name="embed", source="x", task=Task.EMBED, replicas=())
    plan = plan_of(tmp_path, embed)
    assert main.route_of(plan, "gpt").name == "chat"
    for name, reason in (("x", "not in the plan"), ("embed", "its task is embed")):
        with pytest.raises(ConfigError, match=reason):
            main.route_of(plan, name)


def test_one_replica_is_measured_for_each_engine(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    route = plan.models[0]

    def chosen(*engines: str) -> list[str]:
        return [one.name for one in main.chosen_replicas(plan, route, engines)]

    assert chosen() == ["chat-a", "chat-b"]
    assert chosen("sglang", "vllm") == ["chat-b", "chat-a"]
    assert chosen("chat-c", "vllm", "chat-c") == ["chat-c", "chat-a"]
    with pytest.raises(ConfigError, match="no such engine"):
        chosen("trtllm")
    with pytest.raises(ConfigError, match="there is nothing to measure"):
        main.chosen_replicas(plan, replace(route, replicas=("chat-attached",)), ())


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("", Slo()),
        ("ttft=500ms,tpot=40ms", Slo(ttft_s=0.5, tpot_s=0.04)),
        ("ttft=2s@p99", Slo(ttft_s=2.0, percent=99.0)),
        ("tpot=12.5ms", Slo(tpot_s=0.0125)),
        ("@p90", Slo(percent=90.0)),
    ],
)
def test_reads_an_slo(text: str, slo: Slo) -> None:
    assert main.slo_of(text) == slo


@pytest.mark.parametrize("text", ["ttft", "ttft=5", "e2e=5s", "ttft=5s@p0", "ttft=5s@p100", "x"])
def test_rejects_what_is_no_slo(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo ttft=500ms,tpot=40ms@p95"):
        main.slo_of(text)


@pytest.mark.parametrize(
    ("fields", "profile"),
    [
        ({}, Profile()),
        ({"quick": True}, QUICK),
        ({"rounds": 3}, replace(Profile(), rounds=3)),
        ({"rounds": 1}, replace(Profile(), rounds=1, quick=True)),
        ({"requests": 9}, replace(Profile(), requests=9, per_place=1, few=9, quick=True)),
        (
            {"seconds": 2.0},
            replace(Profile(), closed_s=2, open_s=2, search_s=1, warm_s=2, first_warm_s=2, quick=True),
        ),
    ],
)
def test_sizes_of_the_user_choose_nothing(fields: dict[str, Any], profile: Profile) -> None:
    assert main.profile_of(Options(model="m", **fields)) == profile


def test_points_are_those_of_the_user_or_of_the_record() -> None:
    chat = PRESETS["chat"]
    assert main.points_of(Options(model="m"), chat) == ()
    assert main.points_of(Options(model="m", concurrency=4, rate=2.0), chat) == (Point(concurrency=4), Point(rate=2.0))
    assert main.points_of(Options(model="m"), Workload(name="recorded", lengths=((5, 5),), gap_s=0.25)) == (
        Point(rate=4.0),
    )


def test_files_are_counted_in_the_tokens_of_the_model(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    file = tmp_path / "said.json"
    file.write_text(
        '[{"messages": [{"role": "user", "content": "The night"}, {"role": "assistant", "content": "train"}]}]'
    )
    first = plan.replicas[0]
    with running("vllm") as server:
        first = replace(first, url=f"http://127.0.0.1:{server.port}")
        shape = main.shape_of(f"file:{file}", plan, Keys(), plan.models[0], first)
    (ask,) = shape.texts
    assert (len(ask.prompt), ask.tokens > 0) == (2, True)
    with pytest.raises(ConfigError, match="has to serve"):
        main.shape_of(f"file:{file}", plan, Keys(), plan.models[0], replace(first, url="unix:/nowhere"))
    with pytest.raises(ConfigError, match="No such file"):
        main.shape_of("file:/nowhere", plan, Keys(), plan.models[0], first)
    with pytest.raises(ConfigError, match="no answered request"):
        main.shape_of("recorded", plan, Keys(), plan.models[0], first)
    assert main.shape_of("rag", plan, Keys(), plan.models[0], first) is PRESETS["rag"]
    assert main.state_of(plan) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_or_replaces_the_last_one() -> None:
    plain, terminal = io.StringIO(), Terminal()
    for out in (plain, terminal):
        progress = Progress(out)
        for text in ("one", "one", "two"):
            progress.show(text)
    assert [line.split(" ", 1)[1] for line in plain.getvalue().splitlines()] == ["one", "two"]
    assert terminal.getvalue() == "\r\x1b[Kone\r\x1b[Ktwo"


@pytest.mark.parametrize(("answer", "allowed"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False)])
def test_used_model_is_taken_with_consent_alone(answer: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", asked := Terminal(answer))
    err = Terminal()
    if allowed:
        main.confirm("chat", 3, err)
    else:
        with pytest.raises(DeniedError, match="nothing was measured"):
            main.confirm("chat", 3, err)
    assert "chat had 3 requests in the last 10 minutes" in err.getvalue()
    assert asked.read() == ""
    main.confirm("chat", 0, err)
    with pytest.raises(DeniedError, match="`--yes`"):
        main.confirm("chat", 3, io.StringIO())


def test_model_without_a_journal_has_no_requests(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert main.recent_requests(plan, Keys(), plan.models[0]) == 0


def test_requests_of_another_bench_are_none_of_clients(tmp_path: Path) -> None:
    plan, now = plan_of(tmp_path), time.time()
    journal.reserve(plan.paths.journal, 1)
    part = Part(plan.paths.journal)
    part.end(1, 2, 3, start=now - 300)
    part.end(4, 5, start=now - 100)
    assert main.recent_requests(plan, Keys(), plan.models[0]) == 5
    for model, began in (("other", now - 350), ("chat", now - 9999), ("chat", now - 350)):
        found = replace(standard(), model=model, created=began, seconds=100.0)
        results.keep(plan.paths.data_dir, found, lambda _result: "")
    assert main.recent_requests(plan, Keys(), plan.models[0]) == 2


def write_contracts(plan: Plan) -> None:
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())


def test_what_control_has_ordered_fails_with_its_reason(tmp_path: Path) -> None:
    write_contracts(plan_of(tmp_path))
    with pytest.raises(ControlError, match="There is nothing to measure"):
        main.ordered(str(tmp_path))
    control = Control()

    async def scene(path: Path) -> None:
        plan = plan_of(path.parent)
        write_contracts(plan)
        order = Order(operation="a1", model="chat", bench=Bench(engines=("trtllm",)))
        order_file(plan.paths).write_bytes(msgspec.json.encode(order))
        with pytest.raises(ConfigError, match="no such engine"):
            await asyncio.to_thread(main.ordered, str(path.parent))
        for file in path.parent.glob("*.json"):
            file.unlink()

    asyncio.run(control.serve(scene))
    (last,) = [one.renew for one in control.asked if one.renew]
    assert (last.operation, last.ends) == ("a1", True)
    assert "no such engine" in last.failure


def test_exit_codes() -> None:
    same = standard()
    assert main.exit_code(same) == 0
    assert main.exit_code(result(broken(engine("a-vllm", 1.0), "F12: x"), engine("a-sglang", 1.0))) == main.INVALID
    assert main.exit_code(result(engine("a-vllm", 1.0, problem="x"))) == 1
    undecided = tuple(replace(one, outcome=Outcome.UNDECIDED) for one in same.comparisons)
    assert main.exit_code(replace(same, comparisons=undecided)) == main.UNDECIDED


def command(monkeypatch: pytest.MonkeyPatch, run_dir: Path, *arguments: str) -> int | str | None:
    monkeypatch.setenv("BERTH_RUN_DIR", str(run_dir))
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    return ended.value.code


def test_results_are_listed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path)
    plan.paths.plan.write_bytes(plan.to_json())
    assert command(monkeypatch, tmp_path, "list") == 0
    assert capsys.readouterr().out == "no results\n"
    results.keep(plan.paths.data_dir, standard(), lambda _one: "")
    assert command(monkeypatch, tmp_path, "list", "--json") == 0
    assert capsys.readouterr().out.startswith("[{")
    page = tmp_path / "page.html"
    assert command(monkeypatch, tmp_path, "show", "1", "--html", str(page)) == 0
    assert "FASTER" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    assert command(monkeypatch, tmp_path, "show", "7") == 78
    assert "Allowed: 1" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [("--rounds", "0"), ("--seconds", "x"), ("--rate", "-1"), ("--windows", "1.5")])
def test_rejects_numbers_that_are_none(
    wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path, "chat", *wrong) == 2
    assert "must be a" in capsys.readouterr().err
