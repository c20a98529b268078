"""/admin/bench: what `berth bench` does, over the network. Control starts it, as an operation: a lease on its model."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth.errors import ControlError, InvalidRequestError, NotFoundError, NotReadyError, shortened
from berth.ipc.bench import Bench
from berth.ipc.control_socket import ask
from berth.ipc.operations import Action, Change, Reply, Request
from berth.plan import Plan
from berth.records import results
from berth.records.results import BenchResult
from berth.router.exchange.responses import Reply as HttpReply
from berth.router.exchange.responses import json_reply, write
from berth.router.server.admin import error_of, operator_of, small_body
from berth.router.worker import Worker

# The report brings its styles and pictures with it. It has no script, and gets no rights of the page's origin.
_REPORT_POLICY: Final = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
DRAIN_S: Final = 30.0  # how long running requests may take to finish
_EXAMPLE: Final = '{"model": "chat", "engines": ["vllm", "sglang"], "workload": "chat"}'


class BenchAdmin:
    """POST starts one, GET lists what runs and the results, the newest first."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        who = operator_of(worker, headers, changes=scope["method"] != "GET")
        origin = scope["client"][0] if scope.get("client") else "?"
        if scope["method"] == "POST":
            change = change_of(await small_body(worker, scope, receive, send), f"{who} from {origin}")
            reply = await self._asked(Request(change=change, who=who, origin=origin))
            status = 202 if reply.operation and reply.operation.running else 200
            document: Any = msgspec.to_builtins(reply)
        else:
            reply, status = await self._asked(Request()), 200
            known = await asyncio.to_thread(results.all_of, worker.plan.paths.data_dir)
            running = [one for one in reply.operations if one.bench is not None and one.running]
            document = {"running": msgspec.to_builtins(running), "results": [summary(one) for one in reversed(known)]}
        extra = [(b"x-request-id", worker.request_ids.of(headers).encode())]
        await write(send, json_reply(document, status=status), extra)

    async def _asked(self, request: Request) -> Reply:
        try:
            reply = await ask(self._worker.plan.paths.control_socket, request)
        except ControlError as error:
            raise NotReadyError(str(error), code="control_silent", retry_after_s=1) from error
        if reply.denial is not None:
            raise error_of(reply.denial)
        return reply


class BenchResultAdmin:
    """GET of one result, by its number or by the operation that measured it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        operator_of(worker, headers, changes=False)
        number = scope["path_params"]["id"]
        known = await asyncio.to_thread(results.all_of, worker.plan.paths.data_dir)
        found = next((one for one in reversed(known) if number in (str(one.id), one.operation)), None)
        if found is None:
            numbers = ", ".join(str(one.id) for one in known) or "none"
            raise NotFoundError(f"There is no result {shortened(number)!r}. Results: {numbers}.", code="unknown_result")
        extra = [(b"x-request-id", worker.request_ids.of(headers).encode())]
        await write(send, json_reply(msgspec.to_builtins(found)), extra)


class BenchReportAdmin:
    """The report of one result, as `berth bench --html` writes it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers, number = self._worker, dict(scope["headers"]), scope["path_params"]["id"]
        operator_of(worker, headers, changes=False)
        body = await asyncio.to_thread(report_of, worker.plan, number)
        extra = [
            (b"content-security-policy", _REPORT_POLICY),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            (b"x-request-id", worker.request_ids.of(headers).encode()),
        ]
        await write(send, HttpReply(body=body, content_type=b"text/html; charset=utf-8"), extra)


def report_of(plan: Plan, number: str) -> bytes:
    """NotFoundError for a result that is not there."""
    try:
        if number.isascii() and number.isdecimal():
            return results.path(plan.paths.data_dir, int(number)).with_suffix(".html").read_bytes()
    except OSError:
        pass
    known = ", ".join(map(str, results.numbers(plan.paths.data_dir))) or "none"
    raise NotFoundError(f"There is no report of a bench {shortened(number)!r}. Kept are: {known}.", param="id")


def change_of(body: bytes, by: str) -> Change:
    """InvalidRequestError for what is no bench."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        options = msgspec.convert(fields, Bench)
        change = msgspec.convert({"drain_s": DRAIN_S, **fields, "action": Action.LEASE, "by": by}, Change)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not a bench ({error}). Send, for example, {_EXAMPLE}") from error
    if unknown := sorted(set(fields).difference(Bench.__dataclass_fields__, ("model", "drain_s"))):
        known = ", ".join(("model", "drain_s", *Bench.__dataclass_fields__))
        raise InvalidRequestError(f"A bench has no field {unknown[0]!r}. Fields: {known}.", param=unknown[0])
    if options.workload.startswith("file:"):
        raise InvalidRequestError("Only the command line reads files: `berth bench`.", param="workload")
    return replace(change, bench=options)


def summary(found: BenchResult) -> dict[str, Any]:
    """A row of the list: without windows."""
    engines = [
        {
            "replica": one.replica,
            "engine": one.engine,
            "version": one.version,
            "likeness": str(one.quality.likeness) if one.quality else None,
            "problem": one.problem,
        }
        for one in found.engines
    ]
    shown = ("id", "operation", "created", "seconds", "model", "workload", "quick", "valid", "chosen", "reasons")
    compared = ("replica", "metric", "ratio", "low", "high", "windows", "noise", "outcome", "more_windows")
    comparisons = [{name: getattr(one, name) for name in compared} for one in found.comparisons]
    return {**{name: getattr(found, name) for name in shown}, "engines": engines, "comparisons": comparisons}


def routes(worker: Worker) -> list[Route]:
    return [
        Route("/admin/bench", BenchAdmin(worker), methods=["GET", "POST"]),
        Route("/admin/bench/{id}", BenchResultAdmin(worker), methods=["GET"]),
        Route("/admin/bench/{id}/report", BenchReportAdmin(worker), methods=["GET"]),
    ]
