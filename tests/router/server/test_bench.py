"""What POST of /admin/bench accepts, and how results are listed."""

from pathlib import Path

import orjson
import pytest

from berth.bench.page import html
from berth.errors import InvalidRequestError, NotFoundError
from berth.ipc.bench import Bench
from berth.ipc.operations import Action, Change
from berth.plan import Keys, Plan
from berth.records import results
from berth.router.server.bench import DRAIN_S, change_of, report_of, summary
from tests.bench.results_of import engine, result
from tests.fakes.asgi import ask
from tests.records.test_usage import plan_in
from tests.router.server.test_page import ADMIN, KEYS, USER, app_of, cookie


def test_fields_are_those_of_the_command() -> None:
    fields = {
        "model": "chat",
        "engines": ["vllm", "sglang"],
        "workload": "512/64",
        "rounds": 2,
        "rate": 1.5,
    }
    options = Bench(engines=("vllm", "sglang"), workload="512/64", rounds=2, rate=1.5)
    expected = Change(action=Action.LEASE, model="chat", drain_s=DRAIN_S, bench=options, by="me")
    assert change_of(orjson.dumps(fields), "me") == expected
    assert change_of(b'{"model": "chat", "drain_s": 5}', "me").drain_s == 5


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"model": 7}', b'{"model": "m", "rounds": "x"}', b"[" * 9999]
)
def test_anything_else_is_refused_with_an_example(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="Send, for example"):
        change_of(body, "me")


def test_unknown_field_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="no field 'engine'") as error:
        change_of(b'{"model": "m", "engine": "vllm"}', "me")
    assert error.value.param == "engine"


def test_files_are_not_read_over_the_network() -> None:
    with pytest.raises(InvalidRequestError, match="Only the command line"):
        change_of(b'{"model": "m", "workload": "file:/etc/passwd"}', "me")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def test_results_are_listed_with_what_was_decided_and_no_windows(plan: Plan) -> None:
    results.keep(plan.paths.data_dir, result(), html)
    failed = result(engine("chat-vllm", 1.0), engine("chat-sglang", 1.0, starts=(), quality=None, problem="no start"))
    results.keep(plan.paths.data_dir, failed, html)

    first, second = map(summary, results.all_of(plan.paths.data_dir))

    assert (first["id"], first["model"], first["valid"], first["chosen"]) == (1, "chat", True, "chat-sglang")
    (decided,) = [one for one in first["comparisons"] if one["metric"].startswith("goodput")]
    assert (decided["replica"], decided["outcome"]) == ("chat-sglang", "faster")
    assert 1.1 < decided["low"] <= decided["ratio"] <= decided["high"] < 1.2
    assert "ratios" not in decided
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
        answer = await ask(app, "/admin/bench/1/report", headers=await cookie(app, ADMIN))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert "sandbox" in policy
        assert "script-src" not in answer.headers["content-security-policy"]
        assert (await ask(app, "/admin/bench/2/report", headers=await cookie(app, ADMIN))).status == 404
        assert (await ask(app, "/admin/bench/1/report", headers=await cookie(app, USER))).status == 403
        assert (await ask(app, "/admin/bench/1/report")).status == 401
    async with app_of(plan, Keys()) as app:
        assert (await ask(app, "/admin/bench/1/report")).status == 404
