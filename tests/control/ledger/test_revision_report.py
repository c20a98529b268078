"""`berth revisions` and `berth diff`, from the files of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from berth.cli.main import main
from berth.plan import Author, Plan, Revision, RevisionState
from berth.records.revisions import keep, path
from tests.fakes.plans import make_plan, make_replica

ONE = Revision(
    model="chat",
    number=1,
    at=1_764_000_000,
    by=Author.ENV,
    base="b",
    order=(0, 1),
    says={"source": "a/b", "engines": "vllm, sglang", "vllm.args": "--seed 1"},
    versions={"vllm": "0.33.0"},
)
TWO = replace(ONE, number=2, by=Author.MIGRATE, says={"source": "a/b", "engines": "sglang, vllm"}, order=(1, 0))
BAD = replace(ONE, number=3, state=RevisionState.REJECTED, reason="2 of 50 failed")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    made = make_plan(str(tmp_path), make_replica(launch=None))
    made.paths.plan.write_bytes(made.to_json())
    monkeypatch.setenv("BERTH_RUN_DIR", str(tmp_path))
    return made


def run(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_lists_the_newest_first(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    keep(plan.paths.data_dir, ONE, TWO, BAD)

    assert run("revisions", "chat") == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines] == ["  chat 3", "* chat 2", "  chat 1"]
    assert lines[0].endswith("by env  vllm, sglang, rejected: 2 of 50 failed")
    assert lines[1].endswith("by migrate  sglang, vllm")
    assert run("revisions", "--json") == 0
    assert [one["number"] for one in json.loads(capsys.readouterr().out)] == [3, 2, 1]


def test_says_what_is_ignored_and_what_is_missing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("revisions") == 0
    assert "no revisions are kept" in capsys.readouterr().out
    path(plan.paths.data_dir).parent.mkdir(parents=True)
    path(plan.paths.data_dir).write_text("nonsense\n")
    assert run("revisions") == 0
    assert "has 1 damaged line: ignored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((), "chat: revision 1 -> 2"),
        (("2", "1"), "chat: revision 2 -> 1"),
        (("1",), "chat: revision 1 -> 2"),
    ],
)
def test_shows_what_differs(
    plan: Plan, numbers: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(plan.paths.data_dir, ONE, replace(TWO, versions={"vllm": "0.34.0"}))

    assert run("diff", "chat", *numbers) == 0

    text = capsys.readouterr().out
    assert text.startswith(shown)
    assert {"  engines", "  vllm.args", "  version of vllm"} <= set(text.splitlines())
    assert "--seed 1" in text


def test_the_same_revision_has_no_differences(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    keep(plan.paths.data_dir, ONE)
    assert run("diff", "chat", "1", "1") == 0
    assert capsys.readouterr().out == "chat: revision 1 -> 1: nothing differs\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("diff", "chat"), "chat: no two revisions to compare. Kept: 1"),
        (("diff", "chat", "1", "9"), "chat: no revision 9. Kept: 1"),
        (("diff", "chat", "1", "1", "1"), "no two revisions to compare"),
        (("diff", "other"), "model 'other' is not in the plan. Models: chat"),
        (("revisions", "other"), "model 'other' is not in the plan. Models: chat"),
    ],
)
def test_says_what_there_is_instead(
    plan: Plan, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(plan.paths.data_dir, ONE)
    assert run(*arguments) == 69
    assert said in capsys.readouterr().err
