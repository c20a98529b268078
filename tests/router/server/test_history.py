"""What operators may read of the data directory: revisions, and results of `berth bench`."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.bench.page import html
from berth.errors import NotFoundError
from berth.plan import Author, Keys, Plan, Revision, RevisionState
from berth.records import results, revisions
from berth.router.server.history import benches, history, report_of
from tests.bench.results_of import engine, result
from tests.fakes.asgi import ask
from tests.records.test_usage import plan_in
from tests.router.server.test_page import ADMIN, KEYS, USER, app_of, cookie

ONE = Revision(model="m", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), says={"engines": "vllm, sglang"})
TWO = replace(ONE, number=2, by=Author.MIGRATE, says={}, versions={"sglang": "0.5", "source": "x"}, operation="7f")
THREE = replace(ONE, number=3, state=RevisionState.REJECTED, reason="failures: 3 of 15")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def test_revisions_are_listed_by_model_with_the_one_that_serves(plan: Plan) -> None:
    revisions.keep(plan.paths.data_dir, ONE, TWO, THREE, replace(ONE, model="gone"))

    found = history(plan, {})

    assert (found["problem"], list(found["models"]), found["models"]["n"]) == ("", ["m", "n"], [])
    shown = [(one["number"], one["engines"], one["state"], one["serves"]) for one in found["models"]["m"]]
    assert shown == [
        (3, "vllm, sglang", "rejected", False),
        (2, "sglang", "promoted", True),
        (1, "vllm, sglang", "promoted", False),
    ]
    assert (found["models"]["m"][0]["reason"], found["models"]["m"][1]["operation"]) == ("failures: 3 of 15", "7f")


def test_a_damaged_history_is_reported(plan: Plan) -> None:
    revisions.keep(plan.paths.data_dir, ONE)
    with revisions.path(plan.paths.data_dir).open("ab") as file:
        file.write(b"{\n")

    assert "has 1 damaged line" in history(plan, {})["problem"]


def test_results_have_their_verdicts_and_no_windows(plan: Plan) -> None:
    results.keep(plan.paths.data_dir, result(), html)
    failed = result(engine("chat-vllm", 1.0), engine("chat-sglang", 1.0, starts=(), quality=None, problem="no start"))
    results.keep(plan.paths.data_dir, failed, html)

    second, first = benches(plan, {})["benches"]

    assert (first["id"], first["model"], first["valid"], first["chosen"]) == (1, "chat", True, "chat-sglang")
    (verdict,) = [one for one in first["comparisons"] if one["metric"].startswith("goodput")]
    assert (verdict["replica"], verdict["outcome"]) == ("chat-sglang", "faster")
    assert 1.1 < verdict["low"] <= verdict["ratio"] <= verdict["high"] < 1.2
    assert "ratios" not in verdict
    assert [one["problem"] for one in second["engines"]] == ["", "no start"]
    assert [one["likeness"] for one in second["engines"]] == ["same", None]


@pytest.mark.parametrize("number", ["2", "0", "-1", "²", "../1", "x" * 9000])
def test_only_reports_that_are_kept_are_found(plan: Plan, number: str) -> None:
    results.keep(plan.paths.data_dir, result(), html)

    assert b"<h1>chat: bench 1</h1>" in report_of(plan, "1")
    with pytest.raises(NotFoundError, match="Kept are: 1"):
        report_of(plan, number)


@pytest.mark.anyio
async def test_a_report_is_for_operators_and_gets_no_rights_in_the_browser(plan: Plan) -> None:
    results.keep(plan.paths.data_dir, result(), html)
    async with app_of(plan, KEYS) as app:
        answer = await ask(app, "/admin/benches/1", headers=await cookie(app, ADMIN))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert "sandbox" in policy
        assert "script-src" not in answer.headers["content-security-policy"]
        assert (await ask(app, "/admin/benches/2", headers=await cookie(app, ADMIN))).status == 404
        assert (await ask(app, "/admin/benches/1", headers=await cookie(app, USER))).status == 403
        assert (await ask(app, "/admin/benches/1")).status == 401
    async with app_of(plan, Keys()) as app:
        assert (await ask(app, "/admin/benches/1")).status == 404
