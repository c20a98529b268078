"""`berth migrate`, `berth rollback` and `berth migration`: what is requested of control, and what is shown."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from berth.cli.main import main
from berth.control.operations.server import serve
from berth.ipc.migration import Counts, How, Migration, Move, MoveKind, Options, Phase
from berth.ipc.operations import Action, Denial, DenialCode, Operation, OperationState, Reply, Request, Step
from berth.ipc.shadow import PLACES, Shadow, ShadowOptions, ShadowPhase
from tests.fakes.plans import make_plan, make_replica

MIGRATION = Migration(
    options=Options(to="sglang"),
    how=How.BOTH,
    candidate="chat-sglang",
    stable="chat-vllm",
    before=("chat-vllm", "chat-sglang"),
    after=("chat-sglang", "chat-vllm"),
    revision=2,
    phase=Phase.CANARY,
    since=0.0,
    step=2,
    paused="by me",
    check="4 answers are sane",
    own=Counts(attempts=40, probes=16, failures=1, timed=20, slow=2),
    other=Counts(attempts=120),
)
RUNNING = Operation(id="7", action=Action.MIGRATE, model="chat", created_at=0.0, migration=MIGRATION)


class Control:
    """Answers over the socket of a run directory, and keeps what was requested."""

    def __init__(self, run_dir: Path) -> None:
        plan = make_plan(str(run_dir), make_replica(launch=None))
        plan.paths.plan.write_bytes(plan.to_json())
        self._path = plan.paths.control_socket
        self._loop = asyncio.new_event_loop()
        self.requests: list[Request] = []
        self.reply = Reply(operation=RUNNING, operations=(RUNNING,))
        self._task = self._loop.create_task(serve(self._path, self._answer))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _answer(self, request: Request) -> Reply:
        self.requests.append(request)
        return self.reply

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(60)


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    monkeypatch.setenv("BERTH_RUN_DIR", str(tmp_path))
    made = Control(tmp_path)
    yield made
    made.close()


def run(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_a_migration_is_requested_as_it_is_typed(control: Control) -> None:
    typed = ("--steps", "10%,100", "--step-time", "7", "--step-requests", "9", "--keep", "5", "--hold", "4")
    more = ("--trial", "3", "--first-token", "2", "--token", "0.1", "--shadow", "10%")
    assert run("migrate", "chat", "--to", "sglang", "--how", "swap", *typed, *more) == 0

    change = control.requests[0].change
    assert change is not None
    assert (change.action, change.model) == (Action.MIGRATE, "chat")
    assert change.migrate == Options(
        to="sglang", how=How.SWAP, steps=(10, 100), step_s=7, step_requests=9, keep_s=5, hold_s=4, trial_s=3,
        first_token_s=2, token_s=0.1, shadow=0.1,
    )  # fmt: skip


def test_a_check_says_that_the_engine_before_sleeps(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    swap = replace(MIGRATION, how=How.SWAP, sleeps=True)
    for trial_s, tried in ((60.0, True), (0.0, False)):
        options = replace(swap.options, trial_s=trial_s)
        control.reply = Reply(operation=replace(RUNNING, migration=replace(swap, options=options)))
        assert run("migrate", "chat", "--to", "sglang", "--check") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"  before    {swap.stable}: asleep for 900 s after that, until it is stopped"
        assert any(line.startswith("  trial") for line in lines) is tried


def test_a_migration_shows_what_was_compared_before_its_canary(
    control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = tuple({"requests": 9.0, "not_chosen": 4.0, "result same": 5.0}.get(name, 0.0) for name in PLACES)
    options = ShadowOptions(to="sglang", share=0.1)
    found = Shadow(options=options, candidate="chat-sglang", phase=ShadowPhase.MIRRORING, since=0.0, now=counts)
    control.reply = Reply(operation=replace(RUNNING, migration=replace(MIGRATION, shadow=found)))
    assert run("migration", "7") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "shadow" in line] == [
        "  shadow    requests    9, 5 of them chosen",
        "  shadow    compared    5, and 0 on their way",
        "  shadow    not made    0",
        "  shadow    results     same 5",
    ]


def test_a_rollback_is_quick(control: Control) -> None:
    assert run("rollback", "chat", "--to", "3") == 0

    change = control.requests[0].change
    assert change is not None
    assert change.action is Action.MIGRATE
    assert change.migrate == Options(to="", revision=3, steps=(100.0,), step_s=0, trial_s=0, step_requests=0)


def test_waiting_ends_when_it_is_promoted(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine before is only kept then."""
    settled = replace(RUNNING, migration=replace(MIGRATION, phase=Phase.SETTLING, paused=""))
    control.reply = Reply(operation=settled)
    assert run("migrate", "chat", "--to", "sglang", "--wait", "600") == 0
    assert "7 migrate chat  running" in capsys.readouterr().out
    control.reply = Reply(operation=replace(RUNNING, state=OperationState.FAILED, reason="rolled back: x"))
    assert run("migrate", "chat", "--to", "sglang", "--wait", "600") == 1
    assert "failed: rolled back: x" in capsys.readouterr().out
    control.reply = Reply(denial=Denial(code=DenialCode.HOLD, message="too long"))
    assert run("migrate", "chat", "--to", "sglang") == 4
    assert "denied (hold_too_long): too long" in capsys.readouterr().err


def test_shows_a_migration_with_its_numbers(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migration", "7") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "  chat-vllm -> chat-sglang, revision 2: both run, which fits",
        "  phase     canary, 25% of the conversations, paused",
        "  paused    by me",
        "  check     4 answers are sane",
        "  chat-sglang: 40 requests (16 of Berth's own), 1 failed, 2 of 20 slow",
        "  chat-vllm: 120 requests, 0 failed",
        "  gate      failures: passed (1 of 40; the stable replica: 0 of 120)",
        "  gate      empty answers: passed (0 of 0; the stable replica: 0 of 0)",
        "  gate      slow answers: passed (2 of 20; the stable replica: 0 of 0)",
        "  gate      formats: passed (0 without the requested format; the stable replica: 0)",
        "  gate      lengths: passed (0 and 0 answers, of 30 that are needed)",
    ]
    assert control.requests == [Request(operation="7")]


def test_shows_why_one_is_rolled_back(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    back = replace(MIGRATION, phase=Phase.ROLLING_BACK, paused="", reason="failures: 2 of 9", own=Counts())
    control.reply = Reply(operation=replace(RUNNING, migration=replace(back, how=How.SWAP, hold_s=21.4)))
    assert run("migration", "7") == 0
    text = capsys.readouterr().out
    assert "revision 2: swap, requests hold for about 21 s" in text
    assert "  phase     rolling_back\n  reason    failures: 2 of 9" in text
    assert "gate" not in text


@pytest.mark.parametrize("do", list(MoveKind))
def test_moves_a_migration(control: Control, do: MoveKind) -> None:
    assert run("migration", "7", do.value) == 0
    assert control.requests[0].move == Move(migration="7", kind=do)
    assert control.requests[0].who.startswith("shell uid=")


def test_lists_migrations_alone(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    load = Operation(id="8", action=Action.LOAD, model="chat", created_at=0.0)
    done = replace(RUNNING, id="6", state=OperationState.DONE)
    control.reply = Reply(operations=(done, RUNNING, load))
    assert run("migrations") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("6 migrate chat  done")
    assert lines[1].endswith("7 migrate chat  running (canary, 25% of the conversations, paused)")
    assert run("migrations", "--json") == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["operations"]] == ["6", "7"]
    control.reply = Reply()
    assert run("migrations") == 0
    assert capsys.readouterr().out == "no migrations\n"


def test_a_dry_run_says_how(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    control.reply = Reply(operation=RUNNING, steps=(Step(replica="chat-sglang", status="standby", to="ready"),))
    assert run("migrate", "chat", "--to", "sglang", "--dry-run") == 0
    slow = "first token after 1 s, or 0.05 s per token"
    assert capsys.readouterr().out.splitlines() == [
        "  revision 2: both run, which fits",
        "  canary    1%, 5%, 25%, 100% of the conversations, each for 300 s and 100 requests at least",
        f"  gates     failures, empty answers, slow answers ({slow}), formats, lengths",
        "  before    chat-vllm: for 900 s after that, until it is stopped",
        "  chat-sglang: standby -> ready",
    ]


def test_a_check_of_changes_says_where_they_run(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    place = replace(MIGRATION, how=How.SWAP, stable="chat-sglang", hold_s=33.4, changes=("context=1024",))
    for rolling, where in (
        (False, "in place, requests hold for about 33 s"),
        (True, "while the model's other engines serve"),
    ):
        control.reply = Reply(operation=replace(RUNNING, migration=replace(place, rolling=rolling)))
        assert run("migrate", "chat", "--set", "context=1024", "--check") == 0
        lines = capsys.readouterr().out.splitlines()
        assert where in lines[0]
        assert lines[1] == "  changes   context=1024"
        assert lines[2].startswith("  canary    none: ")
        assert lines[3] == "  trial     60 s with all requests, 100 at least, before it is promoted"
        assert lines[5] == "  before    chat-sglang: gates are on for 900 s; a rollback starts it again as it was"
    assert run("migration", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "  chat-sglang, revision 2: in place, while the model's other engines serve",
        "  changes   context=1024",
    ]
    assert not [line for line in lines if "120 requests" in line]  # there is no other side


def test_changes_are_requested_as_they_are_typed(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "chat", "--set", "args+=--x 1", "--set", "context=1024", "--source", "./new") == 0
    change = control.requests[0].change
    assert change is not None
    assert change.migrate == Options(set=("args+=--x 1", "context=1024"), source=str(Path("new").absolute()))
    capsys.readouterr()
    assert run("migrate", "chat") == 78
    assert "berth migrate: --to, --set, --source: nothing is to change. Allowed: an ENGINE" in capsys.readouterr().err
    assert len(control.requests) == 1


def test_a_dry_run_says_why_models_leave_as_they_do(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    step = Step(replica="chat-vllm", status="ready", to="asleep", about_s=2.5, why="with its weights in RAM, 9.0 GiB")
    control.reply = Reply(operation=replace(RUNNING, migration=None), steps=(step,))
    assert run("load", "coder", "--dry-run") == 0
    assert capsys.readouterr().out == "  chat-vllm: ready -> asleep, about 2.5 s: with its weights in RAM, 9.0 GiB\n"


def test_a_rollback_of_a_running_migration_ends_well(control: Control) -> None:
    undone = replace(MIGRATION, phase=Phase.ROLLED_BACK, paused="")
    control.reply = Reply(operation=replace(RUNNING, state=OperationState.FAILED, migration=undone))
    assert run("rollback", "chat", "--wait", "9") == 0
    assert run("migrate", "chat", "--to", "sglang", "--wait", "9") == 1
