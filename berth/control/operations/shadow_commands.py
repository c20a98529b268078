"""`berth shadow`: shows what shadows found, and ends one."""

import asyncio
import sys
from typing import Any

import msgspec

from berth.control.operations.commands import DENIED, TIMED_OUT, operation_line, show, wait, who
from berth.ipc.control_socket import ask
from berth.ipc.operations import Denial, DenialCode, Operation, Reply, Request
from berth.ipc.shadow_results import lines
from berth.plan import Plan, read_plan


def show_all(run_dir: str, model: str, *, as_json: bool) -> int:
    """The last of each model, or of this one. ControlError when Berth does not run with this run directory."""
    plan = read_plan(run_dir)
    if (denial := unknown(plan, model)) is not None:
        show(Reply(denial=denial), as_json=as_json)
        return DENIED
    replies = asyncio.run(last(plan, model))
    if as_json:
        documents = [document(one) for one in replies]
        shown = documents if not model else documents[0] if documents else {}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
    else:
        text = [line for one in replies for line in text_of(one)]
        sys.stdout.write(("\n".join(text) or "no shadows") + "\n")
    return 0


def stop(run_dir: str, model: str, *, wait_s: float | None, as_json: bool) -> int:
    """`wait_s`: None: does not wait until its candidate is at rest."""
    plan = read_plan(run_dir)
    denial = unknown(plan, model)
    if denial is None:
        running = [one.operation for one in asyncio.run(last(plan, model)) if one.operation and one.operation.running]
        if running:
            request = Request(cancel=running[0].id, who=who())
            reply = asyncio.run(ended(plan, request, wait_s or 0.0))
            show(reply, as_json=as_json)
            is_late = wait_s is not None and reply.operation is not None and reply.operation.running
            return DENIED if reply.denial else TIMED_OUT if is_late else 0
        message = f"No shadow of {model!r} is on. `berth shadow {model}` shows the last one."
        denial = Denial(code=DenialCode.OVER, message=message)
    show(Reply(denial=denial), as_json=as_json)
    return DENIED


async def ended(plan: Plan, request: Request, wait_s: float) -> Reply:
    return await wait(plan.paths, await ask(plan.paths.control_socket, request), wait_s)


async def last(plan: Plan, model: str) -> list[Reply]:
    """Of each model the newest shadow, with its results."""
    found: dict[str, Operation] = {}
    for one in (await ask(plan.paths.control_socket, Request())).operations:
        if one.shadow is not None and model in ("", *names(plan, one.model)):
            found[one.model] = one
    return [await ask(plan.paths.control_socket, Request(operation=one.id)) for one in found.values()]


def names(plan: Plan, model: str) -> tuple[str, ...]:
    return next(((route.name, *route.aliases) for route in plan.models if route.name == model), ())


def unknown(plan: Plan, model: str) -> Denial | None:
    if not model or any(model in names(plan, route.name) for route in plan.models):
        return None
    known = ", ".join(route.name for route in plan.models)
    return Denial(code=DenialCode.UNKNOWN_MODEL, message=f"Model {model!r} is not in the plan. Models: {known}.")


def document(reply: Reply) -> dict[str, Any]:
    """The results and the operation that they are of."""
    operation = reply.operation
    found = {"operation": operation.id, "state": operation.state, "reason": operation.reason} if operation else {}
    return {**found, **(msgspec.to_builtins(reply.shadow) if reply.shadow else {})}


def text_of(reply: Reply) -> list[str]:
    head = [operation_line(reply.operation)] if reply.operation else []
    return [*head, *(lines(reply.shadow) if reply.shadow else [])]
