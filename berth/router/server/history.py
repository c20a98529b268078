"""What the data directory keeps for operators to read: GET of /admin/revisions, /admin/benches and /admin/benches/{id}.
Nothing of it changes here: `berth bench` measures, and operations migrate.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth.errors import NotFoundError, shortened
from berth.plan import Plan, Revision
from berth.records import results, revisions
from berth.records.results import BenchResult
from berth.router.exchange.responses import Reply, write
from berth.router.server.admin import Ledger, operator_of
from berth.router.worker import Worker

# The report brings its styles and pictures with it. It has no script, and gets no rights of the page's origin.
_REPORT_POLICY: Final = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"


class BenchReport:
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
        await write(send, Reply(body=body, content_type=b"text/html; charset=utf-8"), extra)


def report_of(plan: Plan, number: str) -> bytes:
    """NotFoundError for a result that is not there."""
    try:
        if number.isascii() and number.isdecimal():
            return results.path(plan.paths.data_dir, int(number)).with_suffix(".html").read_bytes()
    except OSError:
        pass
    known = ", ".join(map(str, results.numbers(plan.paths.data_dir))) or "none"
    raise NotFoundError(f"There is no report of a bench {shortened(number)!r}. Kept are: {known}.", param="id")


def benches(plan: Plan, _query: Mapping[str, str]) -> dict[str, Any]:
    """The newest first, without their windows."""
    return {"benches": [summary(one) for one in reversed(results.all_of(plan.paths.data_dir))]}


def summary(found: BenchResult) -> dict[str, Any]:
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
    shown = ("id", "created", "seconds", "model", "workload", "quick", "valid", "chosen", "reasons")
    compared = ("replica", "metric", "ratio", "low", "high", "windows", "noise", "outcome", "more_windows")
    comparisons = [{name: getattr(one, name) for name in compared} for one in found.comparisons]
    return {**{name: getattr(found, name) for name in shown}, "engines": engines, "comparisons": comparisons}


def history(plan: Plan, _query: Mapping[str, str]) -> dict[str, Any]:
    """Of each model of the plan that has revisions, the newest first."""
    found = revisions.read(plan.paths.data_dir)

    def of(model: str) -> Iterator[dict[str, Any]]:
        promoted = found.promoted(model)
        return (revision(one, serves=one == promoted) for one in reversed(found.of(model)))

    return {"problem": found.problem, "models": {route.name: list(of(route.name)) for route in plan.models}}


def revision(one: Revision, *, serves: bool) -> dict[str, Any]:
    """`serves`: it was promoted last."""
    engines = one.says.get("engines") or ", ".join(engine for engine in one.versions if engine != "source")
    return {
        "number": one.number,
        "at": one.at,
        "by": str(one.by),
        "engines": engines,
        "state": str(one.state),
        "reason": one.reason,
        "operation": one.operation,
        "serves": serves,
    }


def routes(worker: Worker) -> list[Route]:
    return [
        Route("/admin/revisions", Ledger(worker, history), methods=["GET"]),
        Route("/admin/benches", Ledger(worker, benches), methods=["GET"]),
        Route("/admin/benches/{id}", BenchReport(worker), methods=["GET"]),
    ]
