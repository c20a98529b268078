"""GET of /admin/revisions: what the data directory keeps of each model's revisions. Operations change them."""

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.routing import Route

from berth.plan import Plan, Revision
from berth.records import revisions
from berth.router.server.admin import Ledger
from berth.router.worker import Worker


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
    ]
