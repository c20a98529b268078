"""Who may use /admin, and what its readable parts accept."""

import time
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from berth import admin_keys
from berth.errors import AuthenticationError, InvalidRequestError
from berth.ipc.migration import How, Move, MoveKind, Options
from berth.ipc.operations import Action, Change
from berth.plan import Keys
from berth.plan.keys import digest
from berth.records import audit
from berth.router.server.admin import audited, change_of, operator, used
from tests.fakes.asgi import ask
from tests.records.test_usage import plan_in
from tests.router.server.test_page import ADMIN, KEYS, OWN, app_of, cookie

SECRET = Keys(admin_secret="s3cret")
WITH_KEY = Keys(admin_secret="s3cret", admin_key_digest=digest("root"))


def test_without_an_admin_key_only_keys_of_the_command_open_the_paths() -> None:
    valid = admin_keys.make("s3cret", time.time() + 60).encode()

    assert operator(SECRET, valid) == operator(WITH_KEY, valid) == "a key of `berth key admin`"
    assert operator(WITH_KEY, b"root") == "the admin API"
    with pytest.raises(HTTPException):
        operator(SECRET, b"root")
    with pytest.raises(AuthenticationError):
        operator(WITH_KEY, b"other")
    with pytest.raises(AuthenticationError, match="expired"):
        operator(SECRET, admin_keys.make("s3cret", time.time() - 60).encode())


@pytest.mark.parametrize("query", [{"month": "../x"}, {"month": "2026-1"}, {"by": "hour"}])
def test_usage_is_of_a_month_and_by_something(tmp_path: Path, query: dict[str, str]) -> None:
    plan = plan_in(tmp_path)
    with pytest.raises(InvalidRequestError):
        used(plan, query)
    assert used(plan, {"month": "2026-11", "by": "key"}) == {"month": "2026-11", "rows": []}


def test_audit_shows_as_many_as_are_asked_for(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    for number in range(60):
        entry = audit.Entry(t=number, who="someone", what="change", result="done")
        audit.append(plan.paths.data_dir, entry)

    assert len(audited(plan, {})["entries"]) == 50
    assert [entry["t"] for entry in audited(plan, {"n": "2"})["entries"]] == [58, 59]
    with pytest.raises(InvalidRequestError):
        audited(plan, {"n": "-1"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"action": "load", "model": "m"}', Change(action=Action.LOAD, model="m", by="me")),
        (
            b'{"action": "migrate", "model": "m", "migrate": {"to": "sglang", "how": "swap"}}',
            Change(action=Action.MIGRATE, model="m", by="me", migrate=Options(to="sglang", how=How.SWAP)),
        ),
        (b'{"migration": "7", "kind": "pause"}', Move(migration="7", kind=MoveKind.PAUSE)),
    ],
)
def test_reads_changes_and_moves(body: bytes, expected: Change | Move) -> None:
    assert change_of(body, "me") == expected


def test_the_error_of_a_move_names_its_kinds() -> None:
    with pytest.raises(InvalidRequestError, match="kinds are pause, resume, promote, abort"):
        change_of(b'{"migration": "7", "kind": "eat"}', "me")


def test_an_option_that_is_misspelt_is_not_ignored() -> None:
    with pytest.raises(InvalidRequestError, match=r"migrate has no 'step_time': it has .*step_s, "):
        change_of(b'{"action": "migrate", "model": "m", "migrate": {"to": "sglang", "step_time": 9}}', "me")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"7", b'{"migration": "7", "kind": "eat"}', b'{"action": "eat"}']
)
def test_what_is_neither_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="The body is not an operation"):
        change_of(body, "me")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/operations", None),
        ("POST", "/admin/operations", {"action": "load", "model": "chat"}),
        ("DELETE", "/admin/operations/7", None),
        ("POST", "/admin/bench", {"model": "chat"}),
        ("GET", "/admin/capture", None),
        ("POST", "/admin/capture", {"model": "chat"}),
        ("DELETE", "/admin/capture", None),
    ],
)
async def test_while_control_is_away_clients_are_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: object
) -> None:
    monkeypatch.setattr("berth.ipc.control_socket.TIMEOUT_S", 0.05)
    plan = plan_in(tmp_path)
    async with app_of(plan, KEYS) as app:
        headers = {**await cookie(app, ADMIN), **OWN}
        plan.paths.control_socket.unlink()
        answer = await ask(app, path, method=method, headers=headers, body=body)
    assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (503, "control_silent", "1")
