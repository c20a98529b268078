"""`berth shadow`: what is requested of control, and what is shown."""

import json
from dataclasses import replace

import pytest

from berth.ipc.operations import Action, Denial, DenialCode, Operation, OperationState, Reply
from berth.ipc.shadow import PLACES, WIDTH, Shadow, ShadowOptions, ShadowPhase
from berth.ipc.shadow_results import of_shadow
from tests.control.operations.test_commands import Control, control, run

__all__ = ["control"]  # a fixture

NUMBERS = {
    "requests": 500,
    "not_chosen": 400,
    "skipped busy": 7,
    "skipped large": 0,
    "result same": 80,
    "result diverged": 8,
    "result error": 2,
    "failed timeout": 2,
    "same text": 80,
    "of text": 88,
    "count duration": 90,
    "sum duration": 9,
    "squares duration": 2,
    "count logprobs": 4,
    "sum logprobs": 0.4,
    "squares logprobs": 0.05,
}
COUNTS = tuple(float(NUMBERS.get(name, 0)) for name in PLACES)
SHADOW = Shadow(
    options=ShadowOptions(to="sglang", share=0.2, for_s=600),
    candidate="chat-sglang",
    phase=ShadowPhase.MIRRORING,
    since=0.0,
    before=(0.0,) * WIDTH,
    now=COUNTS,
)
RUNNING = Operation(id="7", action=Action.SHADOW, model="chat", created_at=0.0, shadow=SHADOW)
RESULTS = of_shadow(SHADOW, "chat", 60.0)
REPLY = Reply(operation=RUNNING, operations=(RUNNING,), shadow=RESULTS)


def test_a_shadow_is_requested_as_it_is_typed(control: Control) -> None:
    control.reply = REPLY
    assert run("shadow", "chat", "--to", "sglang", "--share", "20%", "--for", "10m") == 0
    (change,) = [one.change for one in control.requests]
    assert change is not None
    assert (change.action, change.model, change.shadow) == (Action.SHADOW, "chat", SHADOW.options)
    assert run("shadow", "chat", "--to", "sglang", "--share", "0.2", "--dry-run") == 0
    change = control.requests[-1].change
    assert change is not None
    assert (change.dry_run, change.shadow) == (True, SHADOW.options)


def test_shows_what_was_found_with_its_intervals(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    control.reply = REPLY
    assert run("shadow", "chat") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("7 shadow chat  running")
    assert lines[1:] == [
        "  chat-sglang gets 20% of the conversations: mirroring, 540 s left",
        "  requests    500, 100 of them chosen",
        "  compared    90, and 3 on their way",
        "  not made    7: busy 7",
        "  results     error 2, same 80, diverged 8",
        "  failures    timeout 2",
        "  text        90.91% (80.13% to 97.00%): 80 of 88 answers with the same text",
        "  duration    1.105 (1.072 to 1.140) times the client's: time of the whole answer",
        "  logprobs    0.100 (-0.069 to 0.269) nats: difference of the log probabilities of the same tokens",
    ]


def test_json_has_every_reason_and_the_operation(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    control.reply = REPLY
    assert run("shadow", "chat", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["operation"], found["state"], found["pairs"], found["diverged"]) == ("7", "running", 90, 8)
    assert (found["skipped"]["busy"], found["skipped"]["no_place"]) == (7, 0)
    assert run("shadow", "--json") == 0
    assert [one["model"] for one in json.loads(capsys.readouterr().out)] == ["chat"]


def test_without_any_shadow(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    control.reply = Reply()
    assert run("shadow") == 0
    assert capsys.readouterr().out == "no shadows\n"
    assert run("shadow", "chat", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {}
    assert run("shadow", "chat", "--stop") == 4
    assert "No shadow of 'chat' is on" in capsys.readouterr().err


def test_stops_the_one_that_is_on(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    control.reply = REPLY
    assert run("shadow", "chat", "--stop") == 0
    assert run("shadow", "chat", "--stop", "--wait", "0") == 3  # its candidate is not at rest yet
    assert control.requests[-1].cancel == "7"
    assert "7 shadow chat  running" in capsys.readouterr().out
    control.reply = replace(REPLY, denial=Denial(code=DenialCode.OVER, message="It is over."))
    assert run("shadow", "chat", "--stop") == 4


def test_wrong_names(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shadow", "x") == 4
    assert run("shadow", "x", "--stop") == 4
    assert capsys.readouterr().err.count("Model 'x' is not in the plan. Models: chat.") == 2
    assert run("shadow", "--to", "sglang") == 2
    assert "name the model" in capsys.readouterr().err
    assert control.requests == []


def test_waits_for_the_end(control: Control) -> None:
    over = replace(RUNNING, state=OperationState.DONE, reason="90 of 100 chosen requests compared")
    control.reply = replace(REPLY, operation=over)
    assert run("shadow", "chat", "--to", "sglang", "--wait", "60") == 0
    control.reply = replace(REPLY, operation=replace(over, state=OperationState.FAILED))
    assert run("shadow", "chat", "--to", "sglang", "--wait", "60") == 1
