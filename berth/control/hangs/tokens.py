"""Engines that are well by their health path, and generate nothing while requests run.

An engine counts its tokens, and shows the counter in its metrics. If it stands still for half of BERTH_TOKEN_TIMEOUT,
although router workers have requests there all the time, control asks the engine for one token: before those requests
are given up. It hangs if that token does not come within BERTH_FIRST_TOKEN_TIMEOUT, and the counter has not moved until
then: neither a long prompt nor a full cache is a hang. Engines without a counter are not judged. TensorRT-LLM has none;
its health path generates a token itself.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from berth.control.hangs.canary import Canary
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.ipc import traffic
from berth.log import log
from berth.plan import Replica
from berth.state import ReplicaStatus

_SERVES: Final = frozenset({ReplicaStatus.READY, ReplicaStatus.DRAINING})
_METRICS: Final = "/metrics"
_METRICS_S: Final = 5.0
_COUNTER: Final = re.compile(
    rb"^(?:vllm|sglang):(?:prompt|generation)_tokens_total(?:\{[^}]*\})? ([\d.e+]+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Of one replica."""

    starts: int
    tokens: float | None  # None: it shows no counter
    since: float  # time.monotonic(): the counter has stood still since then, with requests


def silent_s(before: Reading | None, now: Reading) -> float:
    """How long it has generated nothing, as far as two readings in a row show it."""
    if before is None or now.tokens is None or (before.starts, before.tokens) != (now.starts, now.tokens):
        return 0.0
    return now.since - before.since


async def watch_tokens(runtime: Runtime, prober: Prober, canary: Canary, is_stopping: Callable[[], bool]) -> None:
    """Until control stops."""
    silent_limit_s = runtime.plan.limits.token_timeout_s / 2
    readings: dict[str, Reading] = {}
    asked: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as tasks:
        while not is_stopping():
            used = await asyncio.to_thread(in_use, runtime)
            asked = {name: task for name, task in asked.items() if not task.done()}
            readings = {name: reading for name, reading in readings.items() if name in used}
            for name in used - asked.keys():
                record = runtime.records[name]
                count = await tokens(prober, record.replica)
                reading = Reading(starts=record.starts, tokens=count, since=time.monotonic())
                before, silent = readings.get(name), silent_s(readings.get(name), reading)
                if before is None or not silent:
                    readings[name] = reading
                elif silent >= silent_limit_s:
                    del readings[name]
                    asked[name] = tasks.create_task(judge(runtime, prober, canary, name, before))
            await asyncio.sleep(runtime.timing.tokens_poll_s)


def in_use(runtime: Runtime) -> set[str]:
    """The replicas that serve, and have requests; no attached ones."""
    plan = runtime.plan
    reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
    live = [reports[row] for row in traffic.workers(plan.paths.heartbeats) if row < len(reports)]
    return {
        replica.name
        for number, replica in enumerate(plan.replicas)
        if any(report.loads[number] for report in live)
        and runtime.records[replica.name].status in _SERVES
        and not replica.attached
    }


async def tokens(prober: Prober, replica: Replica) -> float | None:
    """All that it has counted since its start. None: it shows no counter, or does not respond."""
    response = await prober.request(replica, "GET", _METRICS, None, _METRICS_S)
    found = [] if isinstance(response, str) or not response.ok else _COUNTER.findall(response.body)
    return sum(map(float, found)) if found else None


async def judge(runtime: Runtime, prober: Prober, canary: Canary, name: str, before: Reading) -> None:
    """Of one that has generated nothing since that reading."""
    replica = runtime.records[name].replica
    log.warning("engine silent", replica=name, for_s=round(time.monotonic() - before.since))
    result = await canary.ask(replica)
    count, latest = await tokens(prober, replica), runtime.records[name]
    if result.answered or latest.starts != before.starts or count != before.tokens:
        return
    for_s = time.monotonic() - before.since
    reason = f"it hangs: no token for {for_s:.0f} s with requests running, nor when it was asked for one"
    runtime.records[name] = replace(latest, defect=reason)
    runtime.changed.set()
