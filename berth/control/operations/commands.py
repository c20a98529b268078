"""`berth load ...`, `berth operations`, `berth cancel` and `berth events`: requests to control; its replies as text.

Exit codes: 0 done, or accepted; 1 failed or cancelled; 3 not over when `--wait` ended; 4 denied.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import msgspec

from berth.control.decisions.gates import of_migration as gates
from berth.ipc import shadow_results
from berth.ipc.control_socket import ask
from berth.ipc.migration import How, Migration, Move, MoveKind, Phase
from berth.ipc.operations import (
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
    if requested.dry_run or reply.operation.state is OperationState.DONE or _serves(reply.operation):
        return 0
    undone = reply.operation.migration is not None and reply.operation.migration.phase is Phase.ROLLED_BACK
    if undone and requested.migrate and requested.migrate.rolls_back:  # which is what was requested
        return 0
    if reply.operation.running:
        return 0 if wait_s is None else TIMED_OUT
    return FAILED


async def ask_and_wait(paths: RunPaths, requested: Change, wait_s: float) -> Reply:
    """Requests a change, and waits for its end for so long. It survives a restart of control meanwhile."""
    reply = await ask(paths.control_socket, Request(change=requested, who=who()))
    return reply if requested.dry_run else await wait(paths, reply, wait_s)


async def wait(paths: RunPaths, reply: Reply, wait_s: float) -> Reply:
    """For the end of the operation, if it is one."""
    if reply.operation is None:
        return reply
    ends = time.monotonic() + wait_s
    number, is_running = reply.operation.id, reply.operation.running
    while is_running and time.monotonic() < ends and not _serves(reply.operation):
        await asyncio.sleep(_POLL_S)
        reply = await ask(paths.control_socket, Request(operation=number))
        is_running = reply.operation is not None and reply.operation.running
    return reply


def _serves(operation: Operation | None) -> bool:
    """A migration is promoted: what was wanted of it is done, and the engine before is only kept."""
    return operation is not None and operation.migration is not None and operation.migration.promoted


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


def migration(run_dir: str, number: str, do: str, *, as_json: bool) -> int:
    """Shows one with its numbers, after changing it if that is wanted."""
    path = read_plan(run_dir).paths.control_socket
    move = Move(migration=number, kind=MoveKind(do)) if do else None
    request = Request(move=move, who=who()) if move else Request(operation=number)
    reply = asyncio.run(ask(path, request))
    operation = reply.operation
    if as_json or operation is None or operation.migration is None:
        show(reply, as_json=as_json)
    else:
        lines = [operation_line(operation), *migration_lines(operation.migration)]
        sys.stdout.write("\n".join(lines) + "\n")
    return DENIED if reply.denial else 0


def migrations(run_dir: str, *, as_json: bool) -> int:
    reply = asyncio.run(ask(read_plan(run_dir).paths.control_socket, Request()))
    found = tuple(one for one in reply.operations if one.migration is not None)
    if as_json:
        show(replace(reply, operations=found, pins={}), as_json=True)
    else:
        lines = [
            operation_line(one) + (f" ({_phase(one.migration)})" if one.running and one.migration else "")
            for one in found
        ]
        sys.stdout.write(("\n".join(lines) or "no migrations") + "\n")
    return 0


def planned_lines(migration: Migration) -> list[str]:
    """What it would do."""
    options = migration.options
    slow = f"first token after {options.first_token_s:g} s, or {options.token_s:g} s per token"
    steps = ", ".join(f"{step:g}%" for step in options.steps)
    canary = (
        f"{steps} of the conversations, each for {options.step_s:g} s and {options.step_requests} requests at least"
    )
    if migration.rolling:
        canary = "none: it gets requests again when it serves"
    elif migration.how is How.SWAP:
        canary = f"none: requests are queued until it serves, {options.hold_s:g} s at most"
    kept = f"{'asleep ' if migration.sleeps else ''}for {options.keep_s:g} s after that, until it is stopped"
    tried = f"{options.trial_s:g} s with all requests, {options.step_requests} at least, before it is promoted"
    if migration.in_place:
        kept = f"gates are on for {options.keep_s:g} s; a rollback starts it again as it was"
    return [
        f"  revision {migration.revision}: {_how(migration)}",
        *(f"  changes   {line}" for line in migration.changes),
        f"  canary    {canary}",
        *([f"  trial     {tried}"] if migration.how is How.SWAP and options.trial_s else []),
        f"  gates     failures, empty answers, slow answers ({slow}), formats, lengths",
        f"  before    {migration.stable}: {kept}",
    ]


def migration_lines(migration: Migration) -> list[str]:
    """What it does, how far it is, and what was counted."""
    where = migration.candidate if migration.in_place else f"{migration.stable} -> {migration.candidate}"
    lines = [f"  {where}, revision {migration.revision}: {_how(migration)}"]
    lines += [f"  changes   {line}" for line in migration.changes]
    lines.append(f"  phase     {_phase(migration)}")
    lines += [f"  paused    {migration.paused}"] if migration.paused else []
    lines += [f"  reason    {migration.reason}"] if migration.reason else []
    lines += [f"  check     {migration.check}"] if migration.check else []
    if migration.shadow is not None:
        found = shadow_results.of_shadow(migration.shadow, "", time.monotonic())
        lines += [f"  shadow  {line}" for line in shadow_results.lines(found)[1:]]
    sides = ((migration.candidate, migration.own), (migration.stable, migration.other))
    for name, counts in sides[:1] if migration.in_place else sides:
        probes = f" ({counts.probes} of Berth's own)" if counts.probes else ""
        slow = f", {counts.slow} of {counts.timed} slow" if counts.timed else ""
        lines.append(f"  {name}: {counts.attempts} requests{probes}, {counts.failures} failed{slow}")
    shown = ((gate.name, "passed" if gate.passed else "FAILED", gate.numbers) for gate in gates(migration))
    return [*lines, *(f"  gate      {name}: {result} ({numbers})" for name, result, numbers in shown)]


def _how(migration: Migration) -> str:
    if migration.rolling:
        return "in place, while the model's other engines serve"
    if migration.how is How.SWAP:
        return f"{'in place' if migration.in_place else 'swap'}, requests hold for about {migration.hold_s:.0f} s"
    return "both run, which fits"


def _phase(migration: Migration) -> str:
    share = f", {migration.share:.0%} of the conversations" if migration.phase is Phase.CANARY else ""
    return f"{migration.phase}{share}{', paused' if migration.paused else ''}"


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
        if dry_run and (migration := reply.operation.migration) is not None:
            lines += planned_lines(migration)
        found = shadow_results.lines(reply.shadow) if reply.shadow and not dry_run else []
        sys.stdout.write(("\n".join([*lines, *step_lines(reply.steps), *found]) or "nothing would change") + "\n")
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
        + (f": {step.why}" if step.why else "")
        for step in steps
    ]


def event_line(event: Event) -> str:
    details = ", ".join(part for part in (event.reason, event.operation and f"operation {event.operation}") if part)
    return f"{_time(event.at)}  {event.subject}  {event.change}" + (f"  ({details})" if details else "")


def _time(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
