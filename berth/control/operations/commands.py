"""`berth load ...`, `berth operations`, `berth cancel` and `berth events`: requests to control; its replies as text.

Exit codes: 0 done, or accepted; 1 failed or cancelled; 3 not over when `--wait` ended; 4 denied.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from berth.control_socket import ask
from berth.operations import (
    AdapterChange,
    AdapterStatus,
    Change,
    Event,
    Operation,
    OperationState,
    Reply,
    Request,
    Step,
)
from berth.plan import RunPaths, read_plan

FAILED: Final = 1
TIMED_OUT: Final = 3
DENIED: Final = 4
_POLL_S: Final = 0.2


def change(run_dir: str, requested: Change, *, wait_s: float | None, as_json: bool) -> int:
    """`wait_s`: None: does not wait for the end. ControlError when Berth does not run with this run directory."""
    paths = read_plan(run_dir).paths
    reply = asyncio.run(ask_and_wait(paths, requested, wait_s or 0.0))
    show(reply, as_json=as_json, dry_run=requested.dry_run)
    if reply.denial is not None or reply.operation is None:
        return DENIED
    if requested.dry_run or reply.operation.state is OperationState.DONE:
        return 0
    if reply.operation.running:
        return 0 if wait_s is None else TIMED_OUT
    return FAILED


async def ask_and_wait(paths: RunPaths, requested: Change, wait_s: float) -> Reply:
    """Requests a change, and waits for its end for so long. It survives a restart of control meanwhile."""
    reply = await ask(paths.control_socket, Request(change=requested, who=who()))
    if requested.dry_run or reply.operation is None:
        return reply
    ends = time.monotonic() + wait_s
    number, is_running = reply.operation.id, reply.operation.running
    while is_running and time.monotonic() < ends:
        await asyncio.sleep(_POLL_S)
        reply = await ask(paths.control_socket, Request(operation=number))
        is_running = reply.operation is not None and reply.operation.running
    return reply


def who() -> str:
    """For the audit: all that a shell in the container shows."""
    return f"shell uid={os.getuid()}"


def operations(run_dir: str, number: str, *, as_json: bool) -> int:
    """One of them, or all."""
    reply = asyncio.run(ask(read_plan(run_dir).paths.control_socket, Request(operation=number)))
    show(reply, as_json=as_json)
    return DENIED if reply.denial else 0


def cancel(run_dir: str, number: str, *, as_json: bool) -> int:
    reply = asyncio.run(ask(read_plan(run_dir).paths.control_socket, Request(cancel=number, who=who())))
    show(reply, as_json=as_json)
    return DENIED if reply.denial else 0


def adapters(run_dir: str, requested: AdapterChange, *, as_json: bool) -> int:
    reply = asyncio.run(ask(read_plan(run_dir).paths.control_socket, Request(adapter=requested, who=who())))
    if as_json or reply.denial is not None:
        show(reply, as_json=as_json)
    else:
        lines = [line for one in reply.adapters for line in adapter_lines(one)]
        sys.stdout.write(("\n".join(lines) or "no adapters were added") + "\n")
    return DENIED if reply.denial else 0


def adapter_lines(adapter: AdapterStatus) -> list[str]:
    if adapter.problem:
        return [f"{adapter.name or '-'}  {adapter.source}  not added: {adapter.problem}"]
    loaded = f"loaded in {', '.join(adapter.loaded)}" if adapter.loaded else "not loaded yet"
    errors = [f"  {replica}: {error}" for replica, error in adapter.errors.items()]
    return [f"{adapter.name}  {adapter.source}  {loaded}", *errors]


def events(run_dir: str, *, follow: bool, as_json: bool) -> int:
    """The last events; with `follow` until it is interrupted."""
    path = read_plan(run_dir).paths.control_socket

    async def show_events() -> None:
        after = 0
        while True:
            for event in (await ask(path, Request(events_after=after))).events:
                after = event.id
                sys.stdout.write((msgspec.json.encode(event).decode() if as_json else event_line(event)) + "\n")
            sys.stdout.flush()
            if not follow:
                return
            await asyncio.sleep(_POLL_S)

    asyncio.run(show_events())
    return 0


def show(reply: Reply, *, as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(reply), indent=2).decode() + "\n")
    elif reply.denial is not None:
        sys.stderr.write(f"berth: denied ({reply.denial.code}): {reply.denial.message}\n")
    elif reply.operation is not None:
        lines = [] if dry_run else [operation_line(reply.operation)]
        sys.stdout.write(("\n".join([*lines, *step_lines(reply.steps)]) or "nothing would change") + "\n")
    else:
        pins = [f"{model} pinned by {pin.by or 'someone'} at {_time(pin.since)}" for model, pin in reply.pins.items()]
        sys.stdout.write(("\n".join([*map(operation_line, reply.operations), *pins]) or "no operations") + "\n")


def operation_line(operation: Operation) -> str:
    what = " ".join(part for part in (operation.id, operation.action, operation.model) if part)
    reason = f": {operation.reason}" if operation.reason else ""
    return f"{_time(operation.created_at)}  {what}  {operation.state}{reason}"


def step_lines(steps: Iterable[Step]) -> list[str]:
    return [
        f"  {step.replica}: {step.status} -> {step.to}"
        + (f", about {step.about_s:.1f} s" if step.about_s is not None else "")
        for step in steps
    ]


def event_line(event: Event) -> str:
    details = ", ".join(part for part in (event.reason, event.operation and f"operation {event.operation}") if part)
    return f"{_time(event.at)}  {event.subject}  {event.change}" + (f"  ({details})" if details else "")


def _time(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
