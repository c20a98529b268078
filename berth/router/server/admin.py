"""/admin: operations over the network, for who has BERTH_ADMIN_KEY, or a key of `berth key admin`, or has signed in to
the page with one of them. Without BERTH_ADMIN_KEY these paths do not exist for anybody else.

The router only forwards them to control (see berth.ipc.operations), which also serves `berth load ...`.
"""

import asyncio
import dataclasses
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth import admin_keys
from berth.apis.json_weight import UNWEIGHED_BYTES
from berth.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    ControlError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    TooLargeError,
)
from berth.ipc.control_socket import ask
from berth.ipc.migration import Move, MoveKind, Options
from berth.ipc.operations import Change, Denial, DenialCode, Reply, Request
from berth.plan import Keys, Plan
from berth.records import audit, usage
from berth.router.exchange.auth import key_in
from berth.router.exchange.inflight import read_body
from berth.router.exchange.responses import json_reply, write
from berth.router.exchange.sessions import Role
from berth.router.server.explain import Asked, explained
from berth.router.worker import Worker

LONGEST_WAIT_S: Final = 600.0
MOST_ENTRIES: Final = 10_000
USUAL_ENTRIES: Final = 50
_POLL_S: Final = 0.2
_MONTH: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_NOT_FOUND: Final = (DenialCode.UNKNOWN_MODEL, DenialCode.UNKNOWN_OPERATION, DenialCode.UNKNOWN_CAPTURE)


class Ledger:
    """What is written down: GET of /admin/usage and /admin/audit. The router reads the files itself."""

    def __init__(self, worker: Worker, read: Callable[[Plan, Mapping[str, str]], Any]) -> None:
        self._worker = worker
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        operator_of(worker, headers, changes=False)
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        document = await asyncio.to_thread(self._read, worker.plan, query)
        await write(send, json_reply(document), [(b"x-request-id", worker.request_ids.of(headers).encode())])


def used(plan: Plan, query: Mapping[str, str]) -> dict[str, Any]:
    """`month=2026-11`, `by=key|model|day`."""
    now, by = time.time(), query.get("by", "")
    month = query.get("month") or usage.month_of(now)
    if not _MONTH.fullmatch(month):
        raise InvalidRequestError("'month' must be a month, for example 2026-11.", param="month")
    if by not in ("", "key", "model", "day"):
        raise InvalidRequestError("'by' must be key, model or day.", param="by")
    return {"month": month, "rows": usage.summary(usage.current(plan, month, now=now), by)}


def audited(plan: Plan, query: Mapping[str, str]) -> dict[str, Any]:
    """`n=50`: the last ones, the newest last."""
    count = int(_number(query, "n", MOST_ENTRIES)) if "n" in query else USUAL_ENTRIES
    return {"entries": msgspec.to_builtins(audit.last(plan.paths.data_dir, count))}


def named(keys: Keys) -> dict[str, Any]:
    """The names and limits of the clients' keys, without the keys and their digests."""
    shown = (
        *("name", "models", "priority", "share", "requests_per_minute", "tokens_per_minute", "concurrency"),
        *("tokens_per_day", "tokens_per_month", "expires"),
    )
    return {"keys": [{field: getattr(key, field) for field in shown} for key in keys.api_keys]}


class Admin:
    """Operations: each request is one of control."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        who = operator_of(worker, headers, changes=scope["method"] != "GET")
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        request, wait_s = await self._request(scope, receive, send, query, who)
        reply = await self._reply(request, wait_s)
        if reply.denial is not None:
            raise error_of(reply.denial)
        running = reply.operation is not None and reply.operation.running
        status = 202 if running and not (request.change and request.change.dry_run) else 200
        extra = [(b"x-request-id", worker.request_ids.of(headers).encode())]
        await write(send, json_reply(msgspec.to_builtins(reply), status=status), extra)

    async def _request(
        self, scope: Scope, receive: Receive, send: Send, query: Mapping[str, str], who: str
    ) -> tuple[Request, float]:
        """And how long to wait for the end of the operation, in seconds."""
        number = scope["path_params"].get("id", "")
        client = scope.get("client")
        origin = client[0] if client else "?"
        if scope["method"] == "DELETE":
            return Request(cancel=number, who=who, origin=origin), 0.0
        if scope["method"] == "GET":
            if scope["path"] == "/admin/events":
                return Request(events_after=int(_number(query, "after", 2**63))), 0.0
            return Request(operation=number), 0.0
        asked = change_of(await small_body(self._worker, scope, receive, send), f"{who} from {origin}")
        change, move = (None, asked) if isinstance(asked, Move) else (asked, None)
        return Request(change=change, move=move, who=who, origin=origin), _number(query, "wait", LONGEST_WAIT_S)

    async def _reply(self, request: Request, wait_s: float) -> Reply:
        path, loop = self._worker.plan.paths.control_socket, asyncio.get_running_loop()
        ends = loop.time() + wait_s
        try:
            reply = await ask(path, request)
            waits = request.change is not None and not request.change.dry_run
            while waits and reply.operation is not None and reply.operation.running and loop.time() < ends:
                if self._worker.draining:
                    break
                await asyncio.sleep(_POLL_S)
                reply = await ask(path, Request(operation=reply.operation.id))
        except ControlError as error:
            raise NotReadyError(str(error), code="control_silent", retry_after_s=1) from error
        return reply


class Explain:
    """POST of /admin/routes/explain: which rule decides about a request. Nothing changes, and no engine is asked."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        operator_of(worker, headers, changes=False)
        body = await small_body(worker, scope, receive, send)
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            example = '{"path": "/batch/v1/chat/completions", "model": "chat"}'
            raise InvalidRequestError(f"The body is not a request ({error}). Send, for example, {example}") from error
        found = await asyncio.to_thread(explained, worker.plan, worker.keys.current.api_keys, asked)
        await write(send, json_reply(found), [(b"x-request-id", worker.request_ids.of(headers).encode())])


async def small_body(worker: Worker, scope: Scope, receive: Receive, send: Send) -> bytes:
    """TooLargeError for more than an operator's request needs."""
    request = worker.inflight.begin(receive, send, scope.get("client"))
    try:
        body = await read_body(dict(scope["headers"]), request, worker.plan.limits, worker.inflight.memory)
    finally:
        worker.inflight.end(request)
    if len(body) > UNWEIGHED_BYTES:
        raise TooLargeError(f"The request has {len(body)} bytes: more than an operation needs.")
    return body


def operator_of(worker: Worker, headers: Mapping[bytes, bytes], *, changes: bool) -> str:
    """Who sends a request that only an operator may send. A key in the header counts before the page's session."""
    sessions, key = worker.auth.sessions, key_in(headers)
    if not key and (session := sessions.of(headers, changes=changes)) is not None:
        if session.role is not Role.ADMIN:
            raise ForbiddenError("This session may read, not change anything. Sign in with BERTH_ADMIN_KEY.")
        return "the page"
    return operator(worker.keys.current, key)


def operator(keys: Keys, given: bytes) -> str:
    """Who it is that may change things. AuthenticationError for others; HTTPException 404 where BERTH_ADMIN_KEY is not
    set: for them the path does not exist.
    """
    if (ends := admin_keys.ends_of(given, keys.admin_secret)) is not None:
        if time.time() < ends:
            return "a key of `berth key admin`"
        raise AuthenticationError("This key has expired: `berth key admin` makes another.", code="expired_api_key")
    if not keys.admin_key_digest:
        raise HTTPException(404)
    if not hmac.compare_digest(hashlib.sha256(given).hexdigest(), keys.admin_key_digest):
        raise AuthenticationError("Send BERTH_ADMIN_KEY as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'.")
    return "the admin API"


def routes(worker: Worker) -> list[Route]:
    admin = Admin(worker)
    return [
        Route("/admin/operations", admin, methods=["GET", "POST"]),
        Route("/admin/operations/{id}", admin, methods=["GET", "DELETE"]),
        Route("/admin/events", admin, methods=["GET"]),
        Route("/admin/audit", Ledger(worker, audited), methods=["GET"]),
        Route("/admin/routes/explain", Explain(worker), methods=["POST"]),
        Route("/admin/usage", Ledger(worker, used), methods=["GET"]),
        Route("/admin/keys", Ledger(worker, lambda _plan, _query: named(worker.keys.current)), methods=["GET"]),
    ]


def change_of(body: bytes, by: str) -> Change | Move:
    """Of a model, or of a running migration. InvalidRequestError for a body that is neither."""
    fields: Any = None
    try:
        fields = msgspec.json.decode(body)
        if "migration" in fields:
            return msgspec.convert(fields, Move)
        require_options({**fields}.get("migrate") or {})
        return msgspec.convert({**fields, "by": by}, Change)
    except (ValueError, TypeError, RecursionError) as error:
        is_move = isinstance(fields, dict) and "migration" in fields
        example = '{"action": "unload", "model": "chat"}'
        if is_move:
            example = f'{{"migration": "79d49538", "kind": "pause"}}; kinds are {", ".join(MoveKind)}'
        raise InvalidRequestError(f"The body is not an operation ({error}). Send, for example, {example}") from error


def require_options(given: Mapping[str, Any]) -> None:
    """ValueError for an option of migrations that does not exist: the default would count in its place."""
    known = {one.name for one in dataclasses.fields(Options)}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"migrate has no {', '.join(map(repr, unknown))}: it has {', '.join(sorted(known))}")


def _number(query: Mapping[str, str], name: str, most: float) -> float:
    try:
        value = float(query.get(name, "0"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise InvalidRequestError(f"'{name}' must be a number from 0 to {most:g}.", param=name)
    return value


def error_of(denial: Denial) -> ApiError:
    """As a response."""
    if denial.code in _NOT_FOUND:
        return NotFoundError(denial.message, code=denial.code)
    if denial.code is DenialCode.INVALID:
        return InvalidRequestError(denial.message, code=denial.code)
    details = {"holders": denial.holders} if denial.holders else None
    return ConflictError(denial.message, code=denial.code, details=details)
