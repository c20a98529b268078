"""The page: its files, its sessions, and who may do what with which of them."""

import asyncio
import gzip
import hashlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.ipc.operations import Reply
from berth.plan import Keys, Plan
from berth.router.app import App
from berth.router.server.page import FILES, FOLDER, FREE_FAILURES, PER_FAILURE_S, POLICY, TYPES, FailedLogins
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from tests.fakes.api_keys import api_keys
from tests.fakes.asgi import Answer, ask
from tests.fakes.router import make_plan, replica

pytestmark = pytest.mark.anyio

USER, ADMIN = "user-key", "admin-key"
OWN = {"origin": "http://127.0.0.1:8000"}
FOREIGN = {"origin": "http://evil.example"}
ORIGINS = {
    "own": OWN,
    "other": FOREIGN,
    "none": {},
    "browser": {"sec-fetch-site": "same-origin"},
    "same site": {"sec-fetch-site": "same-site", **OWN},
}
SOURCES = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in TYPES]
MOST_BYTES = 25 * 1024  # of all of them, compressed


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = Keys(session_secret="ab" * 32, api_keys=api_keys(USER), admin_key_digest=digest(ADMIN))


@pytest.fixture
def plan(run_dir: str) -> Plan:
    return make_plan(run_dir, [replica("chat-vllm", "http://127.0.0.1:1")])


@asynccontextmanager
async def app_of(plan: Plan, keys: Keys) -> AsyncIterator[App]:
    """Control answers, and does nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(msgspec.json.encode(Reply()) + b"\n")
        writer.close()

    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(replace(plan, open_access=not keys.api_keys), keys)
    async with await asyncio.start_unix_server(answer, plan.paths.control_socket):
        yield App(worker)
    worker.upstreams.close()
    worker.board.close()
    await asyncio.sleep(0)


async def cookie(app: App, key: str) -> dict[str, str]:
    answer = await ask(app, "/ui/login", method="POST", body={"key": key}, headers=OWN)
    assert answer.status == 200, answer.body
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


async def test_every_file_is_served_with_the_policy(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        for path, name in FILES.items():
            answer = await ask(app, f"{path}/" if path == "/ui" else path)
            assert answer.status == 200, path
            assert answer.headers["content-security-policy"] == POLICY.decode()
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-type"] == TYPES[Path(name).suffix].decode()


async def test_a_browser_downloads_a_file_once_and_compressed(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        plain = await ask(app, "/ui/app.js")
        packed = await ask(app, "/ui/app.js", headers={"accept-encoding": "br, gzip"})
        assert gzip.decompress(packed.body) == plain.body
        assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "accept-encoding")
        assert packed.headers["cache-control"] == "no-cache"

        again = await ask(app, "/ui/app.js", headers={"if-none-match": packed.headers["etag"]})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", packed.headers["etag"])

        head = await ask(app, "/ui/app.js", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len(plain.body)


@pytest.mark.parametrize("path", ["/ui/../plan/__init__.py", "/ui/store.js", "/ui/views", "/ui/nothing.js"])
async def test_nothing_else_is_served(plan: Plan, path: str) -> None:
    async with app_of(plan, KEYS) as app:
        assert (await ask(app, path)).status == 404


async def test_all_files_together_are_small(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        answers = [await ask(app, path, headers={"accept-encoding": "gzip"}) for path in FILES]
        assert sum(len(answer.body) for answer in answers) <= MOST_BYTES


def test_the_files_take_nothing_from_elsewhere() -> None:
    for path in (one for one in SOURCES if one.suffix != ".json"):
        text = path.read_text()
        loads = re.findall(r"""(?:src|href)="([^"{$]+)"|(?:from|import)\s*\(?'([^']+)'|\burl\(([^)]+)\)""", text)
        for target in (next(filter(None, found)) for found in loads):
            assert target.startswith(("/ui/", "./", "../", "#", "data:")), (path.name, target)
            if target.startswith("."):
                assert (path.parent / target).resolve() in SOURCES, (path.name, target)
        if path.suffix == ".html":
            assert not re.search(r"<style|<script(?![^>]*src=)|\son\w+=|\sstyle=", text)


def test_only_what_an_insecure_context_has_is_used() -> None:
    """Over plain HTTP from another machine, browsers lack these."""
    for path in SOURCES:
        code = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
        assert not re.search(r"navigator\.(clipboard|locks|serviceWorker)|crypto\.|\beval\(|innerHTML", code), path.name


@pytest.mark.parametrize(("key", "role"), [(USER, "user"), (ADMIN, "admin")])
async def test_signing_in_and_out(plan: Plan, key: str, role: str) -> None:
    async with app_of(plan, KEYS) as app:
        before = await ask(app, "/ui/session")
        assert before.json == {"role": None, "ends": None, "open": False, "changes": True}
        session = await cookie(app, key)
        assert (await ask(app, "/ui/session", headers=session)).json["role"] == role

        after = await ask(app, "/ui/logout", method="POST", headers={**session, **OWN})
        assert (after.status, after.json["role"]) == (200, None)
        assert after.headers["set-cookie"].endswith("Max-Age=0")
        assert after.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"key": "wrong"}, OWN, 401),
        ({"key": ""}, OWN, 400),
        ({"key": 1}, OWN, 400),
        ([], OWN, 400),
        (b"{", OWN, 400),
        ({"key": "x" * 5000}, OWN, 413),
        ({"key": USER}, FOREIGN, 403),
        ({"key": USER}, {"sec-fetch-site": "cross-site"}, 403),
        ({"key": USER}, {}, 200),
        ({"key": USER}, {**OWN, "content-type": "image/png"}, 415),
    ],
)
async def test_logins(plan: Plan, body: Any, headers: dict[str, str], status: int) -> None:
    async with app_of(plan, KEYS) as app:
        answer = await ask(app, "/ui/login", method="POST", body=body, headers=headers)
        assert answer.status == status
        assert ("set-cookie" in answer.headers) is (status == 200)


async def test_keys_cannot_be_guessed(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:

        async def login(key: str, client: str = "10.0.0.7") -> Answer:
            return await ask(app, "/ui/login", method="POST", body={"key": key}, headers=OWN, client=client)

        for number in range(FREE_FAILURES):
            assert (await login(f"wrong-{number}")).status == 401
        refused = await login(USER)
        assert refused.status == 429
        assert 0 < int(refused.headers["retry-after"]) <= PER_FAILURE_S
        assert (await login(USER, client="10.0.0.8")).status == 200


def test_failures_are_forgotten_and_few_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    failed = FailedLogins()
    for _ in range(FREE_FAILURES):
        failed.check("fd00::1")
        failed.add("fd00::1")
    with pytest.raises(Exception, match="Too many failed logins"):
        failed.check("fd00::ffff:2")  # of the same network
    failed.check("fd00:0:0:1::1")
    failed.check("::ffff:10.0.0.1")
    now += PER_FAILURE_S
    failed.check("fd00::1")
    for number in range(5000):
        failed.add(f"10.1.{number // 256}.{number % 256}")
    assert len(failed._paid_at) <= 1024


ACTIONS: dict[tuple[str, str], Any] = {
    ("GET", "/status"): None,
    ("GET", "/v1/models"): None,
    ("GET", "/plan"): None,
    ("HEAD", "/events"): None,
    ("HEAD", "/events?logs=chat-vllm"): None,
    ("GET", "/admin/operations"): None,
    ("GET", "/admin/usage"): None,
    ("GET", "/admin/keys"): None,
    ("GET", "/admin/revisions"): None,
    ("GET", "/admin/bench"): None,
    ("POST", "/admin/operations"): {"action": "restart", "model": "chat"},
    ("DELETE", "/admin/operations/1"): None,
    ("POST", "/v1/chat/completions"): {},  # without a model: 400 or 404 for who may ask
    ("POST", "/ui/logout"): None,
}
ROLES = ("nobody", "user", "admin", "forged", "user's bearer", "admin's bearer")


def expected(role: str, method: str, path: str, origin: str) -> set[int]:
    """The whole rule. A bearer key counts wherever it comes from, a session only from Berth's own page."""
    own = origin in ("own", "browser")
    if path == "/ui/logout":
        return {200} if own else {403}
    changes = method not in ("GET", "HEAD")
    if role in ("user", "admin") and changes and not own:
        return {403}
    if path.startswith("/admin"):
        return {"admin": {200}, "admin's bearer": {200}, "user": {403}}.get(role, {401})
    if "logs=" in path:
        return {200} if role.startswith("admin") else {403} if role.startswith("user") else {401}
    if role == "admin's bearer":
        return {401} if changes else {200}
    return {200, 400} if role in ("user", "admin", "user's bearer") else {401}


async def test_who_may_do_what_from_where(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        user, admin = await cookie(app, USER), await cookie(app, ADMIN)
        forged = {"cookie": user["cookie"].replace("=user.", "=admin.")}
        headers = dict(
            zip(
                ROLES,
                ({}, user, admin, forged, *({"authorization": f"Bearer {k}"} for k in (USER, ADMIN))),
                strict=True,
            )
        )
        for role, origin, (method, path) in product(ROLES, ORIGINS, ACTIONS):
            answer = await ask(
                app, path, method=method, body=ACTIONS[method, path], headers={**headers[role], **ORIGINS[origin]}
            )
            assert answer.status in expected(role, method, path, origin), (role, origin, method, path, answer.body)


async def test_an_open_berth_is_read_without_a_session_and_changed_with_one(plan: Plan) -> None:
    async with app_of(plan, Keys(session_secret="ab" * 32, admin_key_digest=digest(ADMIN))) as app:
        assert (await ask(app, "/ui/session")).json == {"role": None, "ends": None, "open": True, "changes": True}
        assert (await ask(app, "/status")).status == 200
        assert (await ask(app, "/status", headers={"host": "rebound.example"})).status == 403
        for headers, status in ((OWN, 401), ({**OWN, **await cookie(app, ADMIN)}, 200)):
            body = {"action": "restart", "model": "chat"}
            answer = await ask(app, "/admin/operations", method="POST", body=body, headers=headers)
            assert answer.status == status


async def test_the_own_page_is_no_foreign_one_at_any_address(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    async with app_of(plan, Keys()) as app:
        own = {"host": "192.168.1.7:8000", "origin": "http://192.168.1.7:8000"}
        answer = await ask(app, "/v1/chat/completions", method="POST", body={}, headers=own)
        assert answer.status == 400
        assert "access-control-allow-origin" not in answer.headers
        assert "web page not allowed" not in caplog.text
        other = {**own, "origin": "http://192.168.1.7:9000"}
        assert (await ask(app, "/v1/chat/completions", method="POST", body={}, headers=other)).status == 403
        assert "web page not allowed" in caplog.text


async def test_without_an_admin_key_nothing_can_be_changed(plan: Plan) -> None:
    async with app_of(plan, Keys(session_secret="ab" * 32)) as app:
        assert (await ask(app, "/ui/session")).json["changes"] is False
        assert (await ask(app, "/ui/login", method="POST", body={"key": ADMIN}, headers=OWN)).status == 401


async def test_names_and_limits_of_keys_are_listed_without_the_keys(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        answer = await ask(app, "/admin/keys", headers=await cookie(app, ADMIN))
        (key,) = answer.json["keys"]
        assert (key["name"], key["priority"], key["models"]) == ("key-1", "high", [])
        assert digest(USER).encode() not in answer.body


async def test_sessions_do_not_share_stored_responses(plan: Plan) -> None:
    async with app_of(plan, KEYS) as app:
        user, admin = await cookie(app, USER), await cookie(app, ADMIN)
        store = app._worker.responses
        owners = {store.owner({b"cookie": one["cookie"].encode()}) for one in (user, admin)}
        assert len(owners | {store.owner({}), store.owner({b"authorization": b"Bearer " + USER.encode()})}) == 4


async def test_paths_for_operators_are_not_suggested(plan: Plan) -> None:
    async with app_of(plan, Keys(session_secret="ab" * 32)) as app:
        for path in ("/admin/operations", "/admin/operation", "/admin"):
            answer = await ask(app, path)
            assert answer.status == 404
            assert "unknown path" in answer.json["error"]["message"]
            assert answer.json["error"]["message"].count("/admin") == 1  # the one that was asked for
