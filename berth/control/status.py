"""`berth status`: the published Plan and State as text or JSON, and what needs attention."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from berth.ipc.journal import Names, Reader
from berth.notices import RECENT_S, Kind, Notice, notices
from berth.plan import Plan, Replica, RunPaths, read_contract, read_plan
from berth.records import usage
from berth.state import ReplicaState, ReplicaStatus, State
from berth.time_left import words
from berth.units import GIB

STALE_AFTER_S = 10.0  # control publishes every 2 s

_COLOURS: Final[Mapping[str, int]] = {"+": 32, "x": 31, "!": 33}  # of lines that begin with a mark: ANSI codes
_MARKED: Final = re.compile(r"^ *([+x!]) ", re.MULTILINE)
# The head and the lines of the replicas show these.
_SHOWN_ELSEWHERE: Final = frozenset(
    {*(Kind.CONTROL_SILENT, Kind.DISK_LOW, Kind.OPEN_ACCESS), *(Kind.REPLICA_FAILED, Kind.REPLICA_LOOPING)}
)
_MARKS = {
    ReplicaStatus.READY: "+",
    ReplicaStatus.FAILED: "x",
    ReplicaStatus.UNHEALTHY: "!",
    ReplicaStatus.BACKOFF: "!",
}


def status(run_dir: str, *, as_json: bool, colour: bool = False, now: float | None = None) -> tuple[str, int]:
    """The text, and the exit code: 0 when every model has a ready replica, or was unloaded or put to sleep, else 1.
    ControlError when Berth was never
    started with this run directory, or its files are not readable.
    """
    paths, now = RunPaths(run_dir=run_dir, data_dir=""), time.time() if now is None else now
    plan, state = read(paths)
    reader = Reader(paths.journal, Names(plan, ()))
    keys, charged = usage.spent(plan)
    found = notices(plan, state, reader.recent(now - RECENT_S), now=now, keys=keys, charged=charged)
    reader.close()
    if as_json:
        content = msgspec.json.encode({"models": plan.models, "state": state, "notices": found})
        text = msgspec.json.format(content, indent=2).decode()
    else:
        text = table(plan, state, now, found)
    if colour and not as_json:
        text = _MARKED.sub(lambda mark: f"\033[{_COLOURS[mark[1]]}m{mark[0]}\033[0m", text)
    fine = {r.name for r in state.replicas if r.status is ReplicaStatus.READY or r.away}
    return text, 0 if all(fine & set(model.replicas) for model in plan.models) else 1


def read(paths: RunPaths) -> tuple[Plan, State]:
    """The files of the current or last run with this run directory."""
    return read_plan(paths.run_dir), read_contract(paths.state, State.from_json)


def table(plan: Plan, state: State, now: float, found: Sequence[Notice] = ()) -> str:
    """One block per model, one line per replica, with its error below."""
    url = plan.listen.client_url("localhost")
    states = {replica.name: replica for replica in state.replicas}
    lines = [f"{url}  open: no BERTH_API_KEYS" if plan.open_access else url]
    age_s = now - state.published_at
    if age_s > STALE_AFTER_S:
        lines.append(f"! no heartbeat from control for {age_s:.0f} s; the following may be out of date")
    if state.run_dir_full:
        lines.append(f"! {plan.paths.run_dir} is full; engine logs and stored responses are lost")
    lines += [f"! {one.text} ({one.help})" for one in found if one.kind not in _SHOWN_ELSEWHERE]
    for model in plan.models:
        aliases = f" (also {', '.join(model.aliases)})" if model.aliases else ""
        lines += ["", f"{model.name}{aliases}"]
        for name in model.replicas:
            lines += _replica_lines(plan.replica(name), states.get(name), now)
        for one in (shadow for shadow in state.shadows if shadow.model == model.name):
            lines.append(f"  shadow: {one.replica} gets {100 * one.share:.3g}% of the conversations too")
    lines += [
        f"GPU {gpu.index}: {gpu.memory_used_bytes / GIB:.1f} of {gpu.memory_total_bytes / GIB:.1f} GiB used"
        for gpu in state.gpus
    ]
    return "\n".join(lines)


def _replica_lines(replica: Replica, state: ReplicaState | None, now: float) -> list[str]:
    if state is None:
        return [f"  ? {replica.name}  not known to control yet"]
    if state.discovered is not None:
        replica = replica.as_discovered(state.discovered)
    mark = _MARKS.get(state.status, ".")
    minutes, seconds = divmod(int(max(0, now - state.since)), 60)
    hours, minutes = divmod(minutes, 60)
    age = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    columns = [f"  {mark} {replica.name}", replica.kind, state.status, f"for {age}"]
    if state.progress:
        percent = "" if state.progress.percent is None else f" {state.progress.percent:.0f} %"
        sizes = ""
        if state.progress.total_bytes:
            sizes = f", {(state.progress.done_bytes or 0) / GIB:.1f} of {state.progress.total_bytes / GIB:.1f} GiB"
        columns.append(f"({state.progress.phase}{percent}{sizes})")
    if state.begun and (left_s := state.left_s(now)) is not None:
        columns.append(f"about {words(left_s)} left{'' if state.expected_s else ' of the download'}")
    if state.restarts:
        columns.append(f"restarts: {state.restarts}")
    if state.flaps:
        columns.append(f"flapping: failed {state.flaps} times within an hour")
    lines = ["  ".join(columns)]
    if state.reason:
        lines.append(f"      {state.reason}")
    for one in state.ranks:
        generation = f"generation {one.generation}" if one.generation else ""
        words_of_rank = (f"rank {one.rank} on {one.box}", one.status or "not reported", generation, one.reason)
        lines.append(f"      {'  '.join(filter(None, words_of_rank))}")
    return lines + [f"      > {line}" for line in state.last_lines]
