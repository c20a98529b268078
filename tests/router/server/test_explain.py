"""What `berth route` and POST of /admin/routes/explain say, and that it is what a request gets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.boot.config.routes import parse_routes
from berth.cli.main import main
from berth.errors import InvalidRequestError
from berth.plan import DialectName, Keys, Plan, Standby
from berth.plan.keys import digest
from berth.processes import ProcessRecord, supervisor_record, write_record
from berth.router.app import App
from berth.router.server.api_routes import formats
from berth.router.server.explain import Asked, described, explained
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from tests.fakes.api_keys import api_key
from tests.fakes.asgi import ask
from tests.fakes.router import make_plan, replica, route

RULES = """
- {name: batch, path: /batch, engine: sglang, only: true, priority: low}
- {name: ci, key: ci, has: [tools, stream], model: chat, engine: sglang}
- {name: rest, path: /batch, model: chat}
- {name: big, prompt_tokens: ">=1000", header: {x-team: "a*"}, not: image, alias: fast, model: chat}
"""
NO_STORE: Any = None
WITHOUT_SAMPLE = {"/v1/audio/transcriptions", "/v1/audio/translations"}  # forms
WITHOUT_SAMPLE |= {"/v1/responses/input_tokens", "/v1/messages/count_tokens"}
KEYS = (api_key("key-of-ci-0123456789", name="ci"), api_key("key-of-eve-0123456789", name="eve", models=("solo",)))


@pytest.fixture
def plan(run_dir: str) -> Plan:
    replicas = [
        replica("chat-a", "http://127.0.0.1:1"),
        replica("chat-b", "http://127.0.0.1:1", dialect=DialectName.SGLANG),
        replica("solo-a", "http://127.0.0.1:1"),
    ]
    routes = [route("chat", ["chat-a", "chat-b"], standby=Standby.HOT), route("solo", ["solo-a"])]
    return replace(make_plan(run_dir, replicas, routes), rules=parse_routes(RULES))


def reasons(found: dict[str, Any]) -> dict[str, list[str]]:
    return {row["name"]: row["because"] for row in found["rules"]}


@pytest.mark.parametrize(
    ("asked", "expected", "because"),
    [
        (Asked(path="/batch/v1/chat/completions"), ("batch", "chat", ["chat-b"], True, "low"), []),
        (Asked(path="/batch/v1/messages"), ("batch", "chat", ["chat-b"], True, "low"), []),
        (
            Asked(path="/batch/v1/chat/completions", model="solo"),
            ("rest", "chat", ["chat-a", "chat-b"], False, None),
            ["sglang does not serve the model, but chat"],
        ),
        (
            Asked(model="solo"),
            (None, "solo", ["solo-a"], False, None),
            ["not path: /batch", "sglang does not serve the model, but chat"],
        ),
        (Asked(), (None, "chat", ["chat-a", "chat-b"], False, None), ["not path: /batch"]),
    ],
)
def test_says_which_rule_decides_and_why_not_the_first(
    plan: Plan, asked: Asked, expected: tuple[Any, ...], because: list[str]
) -> None:
    found = explained(plan, KEYS, asked)

    assert tuple(found[name] for name in ("rule", "model", "replicas", "only", "priority")) == expected
    assert reasons(found)["batch"] == because
    assert found["error"] == ""


def test_each_condition_that_does_not_hold_is_named(plan: Plan) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    body = {"model": "other", "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    found = explained(plan, KEYS, Asked(body=body, key="ci"))

    assert reasons(found) == {
        "batch": ["not path: /batch", "sglang does not serve the model, but chat"],
        "ci": ["not has: tools, stream"],
        "rest": ["not path: /batch"],
        "big": ["not header: x-team: a*", "not prompt_tokens: >=1000", "not alias: fast"],
    }
    assert (found["rule"], found["replicas"]) == (None, [])
    assert "'other' does not exist here" in found["error"]
    assert explained(plan, KEYS, Asked(body={**body, "stream": True}, key="ci"))["rule"] == "ci"


def test_what_a_key_may_not_use_is_denied(plan: Plan) -> None:
    found = explained(plan, KEYS, Asked(path="/batch/v1/chat/completions", key="eve"))

    assert found["error"].startswith("The API key 'eve' may not use the model 'chat'")


@pytest.mark.parametrize("path", sorted(set(formats(NO_STORE)) - WITHOUT_SAMPLE))
def test_every_path_has_a_sample(plan: Plan, path: str) -> None:
    assert explained(plan, KEYS, Asked(path=f"/batch{path}"))["rule"] == "batch"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(path="/v1/nothing"), "'/v1/nothing' is no path of an API"),
        (Asked(key="bob"), r"'bob' is no key\. Allowed: ci, eve"),
        (Asked(body={"model": "chat"}), "'messages' is missing"),
    ],
)
def test_rejects_what_is_no_request(plan: Plan, asked: Asked, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        explained(plan, KEYS, asked)


def test_reads_a_command_line(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_text('{"model": "m"}')
    headers = ["X-Team: a: b", "y:z"]
    expected = Asked(path="/p", model="n", key="k", headers={"X-Team": "a: b", "y": "z"}, body={"model": "m"})

    assert (
        described("/p", "n", "k", headers, f"@{file}")
        == described("/p", "n", "k", headers, '{"model": "m"}')
        == expected
    )
    for headers, data, reason in (
        ([], "[1]", "is not a body"),
        ([], "@/none", "No such file"),
        (["x"], "", "'x' is not"),
    ):
        with pytest.raises(InvalidRequestError, match=reason):
            described("/p", None, "", headers, data)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["route", *words])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out + output.err


def test_the_command_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, run_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = '{m: {source: any, engines: ["sim:vllm", "sim:sglang"], standby: hot}}'
    monkeypatch.setenv("BERTH_MODELS", models)
    monkeypatch.setenv("BERTH_RUN_DIR", run_dir)
    monkeypatch.setenv("BERTH_DATA", run_dir)
    assert run(capsys) == (0, "BERTH_ROUTES has no rules.\n")

    monkeypatch.setenv(
        "BERTH_ROUTES", "[{path: /batch, engine: 'sim:sglang', priority: low}, {name: last, priority: high}]"
    )
    assert run(capsys) == (
        0,
        "1             path: /batch -> engine: sim:sglang, priority: low\nlast          always -> priority: high\n",
    )
    assert run(capsys, "--explain", "--path", "/batch/api/chat") == (0, """\
* 1             path: /batch -> engine: sim:sglang, priority: low
  last          always -> priority: high
                it matches, but 1 comes first

The rule 1 decides: model m, on m-sim-2, m-sim, priority low
""")  # fmt: skip
    code, text = run(capsys, "--explain", "--json")
    assert (code, json.loads(text)["rule"]) == (0, "last")
    code, text = run(capsys, "--explain", "--model", "none")
    assert text.endswith(
        "The rule last decides. The request is denied: The model 'none' does not exist here. Available: m.\n"
    )
    assert run(capsys, "--explain", "--key", "x")[0] == 2


def test_the_command_reads_the_rules_of_a_running_berth(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys(api_keys=KEYS).to_json())
    write_record(supervisor_record(plan.paths), ProcessRecord.current())
    monkeypatch.setenv("BERTH_RUN_DIR", plan.paths.run_dir)
    monkeypatch.delenv("BERTH_MODELS", raising=False)

    code, text = run(capsys, "--explain", "--model", "solo")
    assert (code, text.splitlines()[-1]) == (0, "No rule matches: model solo, on solo-a")
    text = run(capsys, "--explain", "--path", "/batch/v1/chat/completions")[1]
    assert text.endswith("The rule batch decides: model chat, on only chat-b, priority low\n")


@pytest.mark.anyio
async def test_an_operator_gets_the_explanation_over_http(plan: Plan) -> None:
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(plan, Keys(admin_key_digest=digest("root")))
    app, headers = App(worker), {"x-api-key": "root"}

    async def post(body: object, **given: Any) -> Any:
        return await ask(app, "/admin/routes/explain", method="POST", body=body, headers=given.get("headers", headers))

    asked = {"path": "/batch/v1/chat/completions", "headers": {"x": "y"}}
    found, denied = await post(asked), await post(asked, headers={})
    wrong = [await post(body) for body in ({"pth": "/"}, b"{", {"key": "x"})]

    assert (found.status, found.json["rule"], found.json["rules"][0]["matches"]) == (200, "batch", True)
    assert (denied.status, {one.status for one in wrong}) == (401, {400})
    assert (await post(b" " * 200_000)).status == 413
    worker.upstreams.close()
    worker.board.close()
