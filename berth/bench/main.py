"""`berth bench`: what the user asks for, and what comes out.

Exit codes: 0 decided; 1 an engine did not start; 4 denied; 5 undecided; 6 invalid.
"""

import asyncio
import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TextIO

import msgspec
import uvloop

from berth.bench import page, report, workload
from berth.bench.client import EngineClient
from berth.bench.lease import DeniedError, Lease
from berth.bench.measure import Conditions
from berth.bench.plan_points import QUICK, Profile
from berth.bench.session import WHO, Session, Setup
from berth.errors import BerthError, ConfigError, ControlError, Problem
from berth.ipc.bench import Bench, Order
from berth.ipc.bench import path as order_file
from berth.ipc.journal import Names, Reader
from berth.ipc.reserved_file import read as read_reserved
from berth.plan import Keys, ModelRoute, Plan, Replica, Task, read_keys, read_plan
from berth.records import results
from berth.records.results import BenchResult, Outcome, Point, Slo
from berth.state import State

UNDECIDED: Final = 5
INVALID: Final = 6
RECENT_S: Final = 600.0
_SLO: Final = re.compile(
    r"(?:ttft=(?P<ttft>\d+(?:\.\d+)?)(?P<ttft_unit>ms|s))?,?(?:tpot=(?P<tpot>\d+(?:\.\d+)?)(?P<tpot_unit>ms|s))?"
    r"(?:@p(?P<percent>\d+(?:\.\d+)?))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Bench):
    """Of the command line, which has more than `/admin/bench`."""

    model: str
    max_connections: int | None = None
    reuse_prompts: bool = False
    as_json: bool = False
    html: str = ""
    operation: str = ""  # the lease, if there is one already


def ordered(run_dir: str) -> int:
    """As `/admin/bench` requests it: control has started this program. Its problems are those of the lease."""
    plan = read_plan(run_dir)
    try:
        order = msgspec.json.decode(order_file(plan.paths).read_bytes(), type=Order)
    except (OSError, ValueError) as error:
        raise ControlError(f"There is nothing to measure: {error}. POST of /admin/bench requests it.") from error
    fields = {field.name: getattr(order.bench, field.name) for field in dataclasses.fields(order.bench)}
    try:
        return bench(run_dir, Options(model=order.model, operation=order.operation, **fields))
    except BerthError as error:
        lease = Lease(plan.paths.control_socket, order.operation, WHO)
        with contextlib.suppress(DeniedError):  # it is over, and says why
            asyncio.run(lease.renew(ends=True, failure=str(error)))
        raise


def bench(run_dir: str, options: Options, err: TextIO | None = None) -> int:
    """Measures, keeps the result and prints it."""
    err = err or sys.stderr
    plan, keys = read_plan(run_dir), read_keys(run_dir)
    route = route_of(plan, options.model)
    replicas = chosen_replicas(plan, route, options.engines)
    confirm(route.name, 0 if options.yes else recent_requests(plan, keys, route), err)
    shape = shape_of(options.workload, plan, keys, route, replicas[0])
    conditions = Conditions(
        workload=workload.fitting(shape, min((one.context for one in replicas if one.context), default=None)),
        slo=slo_of(options.slo),
        profile=profile_of(options),
        seed=options.seed,
        vocab_size=min((one.vocab_size for one in replicas if one.vocab_size), default=None),
        reuse_prompts=options.reuse_prompts,
        max_connections=options.max_connections,
        progress=Progress(err).show,
    )
    setup = Setup(
        plan=plan,
        keys=keys,
        route=route,
        replicas=replicas,
        conditions=conditions,
        points=points_of(options, shape),
        gpu_hour_cost=options.gpu_hour_cost,
        operation=options.operation,
    )
    found = uvloop.run(Session(setup, lambda: state_of(plan)).run())
    found = results.keep(plan.paths.data_dir, found, page.html)
    if options.html:
        Path(options.html).write_text(page.html(found), "utf-8")
    show(found, as_json=options.as_json)
    return exit_code(found)


def show(found: BenchResult, *, as_json: bool) -> None:
    sys.stdout.write((msgspec.json.encode(found).decode() if as_json else report.text(found)) + "\n")


def exit_code(found: BenchResult) -> int:
    if any(one.problem for one in found.engines):
        return 1
    if not found.valid:
        return INVALID
    return UNDECIDED if any(one.outcome is Outcome.UNDECIDED for one in report.goodput(found)) else 0


def listing(data_dir: str, *, as_json: bool) -> int:
    found = results.all_of(data_dir)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        sys.stdout.write(("\n".join(map(report.line, found)) or "no results") + "\n")
    return 0


def shown(data_dir: str, number: str, *, as_json: bool, html: str) -> int:
    """ConfigError for a result that is not there."""
    found = results.read(data_dir, int(number)) if number.isdecimal() else None
    if found is None:
        known = ", ".join(map(str, results.numbers(data_dir))) or "none"
        raise ConfigError([_problem("ID", number, "there is no such result", known, "berth bench list")])
    if html:
        Path(html).write_text(page.html(found), "utf-8")
    show(found, as_json=as_json)
    return exit_code(found)


class Progress:
    """A line for each step; on a terminal the last one is replaced."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._last = ""

    def show(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        if self._err.isatty():
            self._err.write(f"\r\x1b[K{text}")
        else:
            self._err.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._err.flush()


def route_of(plan: Plan, name: str) -> ModelRoute:
    """ConfigError for a model that is not in the plan, or generates nothing."""
    route = next((one for one in plan.models if name in (one.name, *one.aliases)), None)
    if route is None or route.task is not Task.GENERATE:
        reason = "it is not in the plan" if route is None else f"its task is {route.task}, and only text is measured"
        known = ", ".join(one.name for one in plan.models if one.task is Task.GENERATE) or "none"
        raise ConfigError([_problem("MODEL", name, reason, known, "berth bench chat")])
    return route


def chosen_replicas(plan: Plan, route: ModelRoute, engines: Sequence[str]) -> tuple[Replica, ...]:
    """One for each engine of the model, in the order of the user. A simulated engine counts by its dialect."""
    found: dict[str, Replica] = {}
    for replica in map(plan.replica, route.replicas):
        if not replica.attached:
            found.setdefault(engine_of(replica), replica)
    unknown = [one for one in engines if one not in found and one not in route.replicas]
    if unknown or not found:
        known = ", ".join(found) or "none: its servers run elsewhere, and Berth cannot start them"
        reason = "no such engine in this model's order" if unknown else "there is nothing to measure"
        raise ConfigError([_problem("--engines", ",".join(unknown), reason, known, "--engines vllm,sglang")])
    named = dict.fromkeys(found[one].name if one in found else one for one in engines)
    return tuple(map(plan.replica, named)) if named else tuple(found.values())


def engine_of(replica: Replica) -> str:
    return replica.dialect if replica.engine == "sim" else replica.kind


def recent_requests(plan: Plan, keys: Keys, route: ModelRoute) -> int:
    """Without those of a bench, during which there are no others."""
    begins = time.time() - RECENT_S
    own = [one for one in results.all_of(plan.paths.data_dir) if one.model == route.name]
    reader = Reader(plan.paths.journal, Names(plan, keys.names()))

    def since(moment: float) -> int:
        tally = reader.recent(max(begins, moment)).get(route.name)
        return tally.requests if tally else 0

    try:
        return since(begins) - sum(since(one.created) - since(one.created + one.seconds) for one in own)
    finally:
        reader.close()


def confirm(model: str, requests: int, err: TextIO) -> None:
    """A model that clients have used within the last minutes is taken from them only with consent. DeniedError."""
    if not requests:
        return
    text = f"{model} had {requests} requests in the last {RECENT_S / 60:.0f} minutes, and serves none meanwhile"
    if not (sys.stdin.isatty() and err.isatty()):
        raise DeniedError(f"{text}. `--yes` measures all the same.")
    err.write(f"{text}. Measure? [y/N] ")
    err.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DeniedError("nothing was measured.")


def slo_of(text: str) -> Slo:
    """`ttft=500ms,tpot=40ms@p95`. ConfigError."""
    match = _SLO.fullmatch(text)
    found = match.groupdict() if match else {}
    times = {
        f"{name}_s": float(found[name]) / (1000 if found[f"{name}_unit"] == "ms" else 1)
        for name in ("ttft", "tpot")
        if found.get(name)
    }
    percent = float(found.get("percent") or Slo().percent)
    if match is None or not 0 < percent < 100:
        allowed = "ttft=TIME,tpot=TIME, each in ms or s, and @p with a percentile"
        raise ConfigError([_problem("--slo", text, "it cannot be read", allowed, "--slo ttft=500ms,tpot=40ms@p95")])
    return Slo(**times, percent=percent)


def profile_of(options: Options) -> Profile:
    """What the user says about sizes makes a quick run of it: only a full one chooses an engine."""
    base = QUICK if options.quick else Profile()
    sizes = (options.windows, options.requests, options.seconds)
    seconds = options.seconds
    return replace(
        base,
        rounds=options.rounds or base.rounds,
        windows=options.windows or base.windows,
        requests=options.requests or base.requests,
        per_place=1 if options.requests else base.per_place,
        few=options.requests or base.few,
        closed_s=base.closed_s if seconds is None else seconds,
        open_s=base.open_s if seconds is None else seconds,
        search_s=base.search_s if seconds is None else seconds / 2,
        warm_s=base.warm_s if seconds is None else min(base.warm_s, seconds),
        first_warm_s=base.first_warm_s if seconds is None else min(base.first_warm_s, seconds),
        quick=base.quick or (options.rounds or base.rounds) < 2 or any(one is not None for one in sizes),
    )


def points_of(options: Options, shape: workload.Workload) -> tuple[Point, ...]:
    """Those that the user gives; a recorded load has its own rate."""
    points = [Point(concurrency=options.concurrency)] if options.concurrency else []
    rate = options.rate or (round(1 / shape.gap_s, 4) if shape.gap_s else None)
    return (*points, *([Point(rate=rate)] if rate else []))


def shape_of(text: str, plan: Plan, keys: Keys, route: ModelRoute, first: Replica) -> workload.Workload:
    if text == "recorded":
        reader = Reader(plan.paths.journal, Names(plan, keys.names()))
        try:
            return workload.recorded(reader.finished(), route.name, first.context)
        finally:
            reader.close()
    if not text.startswith("file:"):
        return workload.parse(text)
    path = Path(text.removeprefix("file:"))
    try:
        found = workload.conversations(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([workload.problem(text, str(error))]) from error
    tokenized = asyncio.run(tokens_of(found, EngineClient(first, keys.upstream_keys.get(first.name, ""))))
    return workload.of_file(str(path), tokenized, first.context)


async def tokens_of(conversations: Sequence[tuple[str, str]], client: EngineClient) -> list[tuple[list[int], int]]:
    """In the tokens of the model, by the engine that serves it now. ConfigError where none does."""
    found = []
    try:
        for texts in conversations:
            prompt, answer = [
                (await client.call("/tokenize", {"model": client.replica.served_name, "prompt": one}))["tokens"]
                for one in texts
            ]
            found.append((prompt, len(answer)))
    except (OSError, ValueError, KeyError) as error:
        reason = f"{client.replica.name} has to serve, so that it can count tokens ({error})"
        raise ConfigError([workload.problem("file", reason)]) from error
    finally:
        client.close()
    return found


def state_of(plan: Plan) -> State | None:
    try:
        return State.from_json(read_reserved(plan.paths.state))
    except (OSError, ValueError):
        return None


def _problem(variable: str, value: str, reason: str, allowed: str, example: str) -> Problem:
    return Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example)
