"""The parts of a report. Each is a text; what one raises says why it is missing."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from berth.boot.config.reference import config_text
from berth.boot.doctor import report as doctor
from berth.boot.main import plan_from
from berth.boot.planner.table import plan_table
from berth.boot.preflight import ENGINES_VARIABLES
from berth.control.logs.tail import Tail
from berth.control.status import status
from berth.errors import ControlError
from berth.ipc.control_socket import ask
from berth.ipc.journal import Names, Reader
from berth.ipc.operations import Request
from berth.ipc.reserved_file import read
from berth.plan import Keys, Plan, RunPaths, read_contract, read_plan
from berth.records import audit, usage
from berth.redaction import MASK, is_secret
from berth.report import machine
from berth.state import State

LOG_LINES: Final = 2000
REQUESTS: Final = 1000
ENTRIES: Final = 200
_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The appliance that is reported."""

    environ: Mapping[str, str]
    paths: RunPaths
    engine_home: str
    keys: Keys  # empty where it does not run

    def plan(self) -> Plan:
        return read_plan(self.paths.run_dir)


def configuration(box: Box) -> str:
    return config_text(box.environ, lambda: plan_from(box.environ))


def environment(box: Box) -> str:
    """The variables that Berth, engines and their libraries read; of all others the names."""
    shown = {name for name in box.environ if name.startswith(("BERTH_", "OTEL_")) or ENGINES_VARIABLES.fullmatch(name)}
    lines = [
        f"{name}={MASK if is_secret(name) else box.environ[name]}" for name in sorted(shown | {"TZ"} & {*box.environ})
    ]
    return "\n".join([*lines, "", "Also set:", *sorted(box.environ.keys() - shown)])


def planned(box: Box) -> str:
    """The settings, as the plan has them: without the environment."""
    return "\n".join(f"{one.name}={one.value}  ({one.origin})" for one in box.plan().configuration)


def plan_now(box: Box) -> str:
    """What a start would do now: also where Berth does not run."""
    return plan_table(plan_from(box.environ))


def requests(box: Box) -> str:
    """The last ones, without any of their texts."""
    plan = box.plan()
    reader = Reader(box.paths.journal, Names(plan, box.keys.names()))
    try:
        records = reader.finished(REQUESTS)
    finally:
        reader.close()
    return "\n".join(json.dumps(record.document(), ensure_ascii=False) for record in records)


def metrics(box: Box) -> str:
    url = f"{box.plan().listen.client_url('127.0.0.1')}/metrics"
    try:  # its certificate is for another name
        response = httpx.get(url, timeout=_WAIT_S, trust_env=False, verify=False)  # noqa: S501 - of this machine
    except httpx.HTTPError as error:
        raise ControlError(f"the router does not respond at {url}: {error}") from error
    return response.text


def operations(box: Box) -> str:
    """And the last events, as control has them."""
    if not box.paths.control_socket.exists():
        raise ControlError(f"control does not run: there is no {str(box.paths.control_socket)!r}")

    async def both() -> list[Any]:
        requested = (Request(), Request(events_after=0))
        return [await ask(box.paths.control_socket, one, timeout_s=_WAIT_S) for one in requested]

    return pretty(asyncio.run(both()))


def month(box: Box) -> str:
    now = time.time()
    return usage.as_text(usage.summary(usage.current(box.plan(), usage.month_of(now), now=now), ""), "csv")


def audited(box: Box) -> str:
    return "\n".join(msgspec.json.encode(one).decode() for one in audit.last(box.paths.data_dir, ENTRIES))


def log_tail(path: Path) -> str:
    """The last lines of one engine's log."""
    tail, lines = Tail(path, oldest=True), deque[str](maxlen=LOG_LINES)
    try:
        while found := tail.read():
            lines.extend(found)
        lines.extend(tail.drain())
    finally:
        tail.close()
    return "\n".join(lines)


def pretty(document: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


OF_ENVIRONMENT: Final = ("environment.txt", "doctor.txt", "plan-now.txt")
PARTS: Final[Mapping[str, Callable[[Box], str]]] = {
    "versions.json": lambda box: pretty(machine.versions(box.engine_home)),
    "environment.txt": environment,
    "configuration.txt": configuration,
    "doctor.txt": lambda box: doctor(box.environ)[0],
    "plan-now.txt": plan_now,
    "plan.txt": lambda box: plan_table(box.plan()),
    "plan.json": lambda box: pretty(box.plan()),
    "status.txt": lambda box: status(box.paths.run_dir, as_json=False)[0],
    "state.json": lambda box: pretty(read_contract(box.paths.state, State.from_json)),
    "control.json": lambda box: pretty(msgspec.json.decode(read(box.paths.control_state))),
    "operations.json": operations,
    "requests.jsonl": requests,
    "metrics.txt": metrics,
    "usage.csv": month,
    "audit.jsonl": audited,
    "measured.json": lambda box: Path(box.paths.data_dir, "berth", "measured.json").read_text(encoding="utf-8"),
    "container.json": lambda box: pretty(machine.container(box.paths)),
    "gpus.txt": lambda box: machine.gpus(box.environ),
}
