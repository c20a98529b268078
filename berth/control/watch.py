"""Watching, in the background: probes and log lines add to the record of the current start of a replica."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from berth.control.attached.attachment import Attachments, Finding, as_discovered
from berth.control.decisions.records import Record, Timing
from berth.control.hangs.canary import Canary
from berth.control.logs.load_progress import advance
from berth.control.probes import Prober, after_probe
from berth.control.runtime import Runtime
from berth.log import log
from berth.plan import Probe, Replica
from berth.state import AttachedFault, ReplicaStatus

_S = ReplicaStatus
_BEFORE_THE_TOKEN = (
    *(AttachedFault.UNASKED, AttachedFault.LOADING),
    *(AttachedFault.NO_CONNECTION, AttachedFault.NO_ANSWER),
)


async def watch_attached(
    runtime: Runtime, attachments: Attachments, name: str, is_stopping: Callable[[], bool]
) -> None:
    """Until control stops, as `probe_replica`. A server that is not ready is asked for a token too."""
    while not is_stopping():
        record = runtime.records[name]
        replica = record.replica
        finding = await attachments.health(replica, replica.alive if record.health.ok else replica.ready)
        if not finding.error and replica.unreached and record.discovered is None:
            replica = await _discover(runtime, attachments, name)
        if not finding.error and record.status is not _S.READY:
            if record.reason.startswith(_BEFORE_THE_TOKEN):
                runtime.records[name] = replace(runtime.records[name], reason=AttachedFault.AWAITED)
            finding = await attachments.first_token(replica, finding)
        runtime.records[name] = after_finding(runtime.records[name], finding)
        runtime.changed.set()
        await asyncio.sleep(runtime.timing.alive_probe_s)


async def _discover(runtime: Runtime, attachments: Attachments, name: str) -> Replica:
    """The replica as its server says that it is; unchanged where it does not answer."""
    replica = runtime.records[name].replica
    found = await attachments.discover(replica)
    if found is None:
        return replica
    known = as_discovered(replica, found)
    runtime.records[name] = replace(runtime.records[name], replica=known, discovered=found)
    shown = {"dialect": found.dialect, "model": found.served_name, "context": found.context}
    log.info("attached server identified", replica=name, **shown)
    return known


def after_finding(record: Record, finding: Finding) -> Record:
    """Of an attached server. The reason for not being ready is always that of the last probe."""
    health = after_probe(record.health, finding.error, loading=finding.loading)
    continues = record.continues if finding.continues is None else finding.continues
    if finding.continues is not None and finding.continues != record.continues:
        operations = " ".join(finding.continues) or "none"
        log.info("continuation checked", replica=record.replica.name, continues=operations)
    reason = record.reason if record.status is _S.READY else finding.error
    if record.status is _S.UNHEALTHY and not finding.loading and finding.error not in ("", record.health.error):
        log.warning("replica unhealthy", replica=record.replica.name, reason=reason)
    return replace(record, health=health, continues=continues, reason=reason)


async def probe_replica(
    runtime: Runtime, prober: Prober, canary: Canary, name: str, is_stopping: Callable[[], bool]
) -> None:
    """Until control stops. The task is cancelled too, but an HTTP client may swallow that. A replica that starts is
    ready once it has answered the canary too.
    """
    while not is_stopping():
        record = runtime.records[name]
        probe, interval_s = due_probe(record, runtime.timing)
        if probe is not None:
            error, defect = await prober.probe(record.replica, probe), ""
            if not error and record.status is _S.STARTING:
                error = (await canary.ask(record.replica)).error
                defect = error and f"it has loaded, but its first answer failed: {error}"
            latest = runtime.records[name]
            if latest.starts == record.starts:
                health = after_probe(latest.health, error)
                runtime.records[name] = replace(latest, health=health, defect=defect or latest.defect)
                if (defect or not error) and latest.status is not _S.READY:
                    runtime.changed.set()
        await asyncio.sleep(interval_s)


def due_probe(record: Record, timing: Timing) -> tuple[Probe | None, float]:
    """The probe for the current status, and the interval after it."""
    replica = record.replica
    if record.status is _S.READY:
        return replica.alive, timing.alive_probe_s
    return (replica.ready if record.status is _S.STARTING else None), timing.ready_probe_s


def on_log_line(records: dict[str, Record], name: str, line: str) -> None:
    """Tracks the progress of a start."""
    record = records.get(name)
    if record is None or record.status is not _S.STARTING:
        return
    tracker = advance(record.tracker, line)
    if tracker is record.tracker:
        return
    progressed_at = time.monotonic() if tracker.moves != record.tracker.moves else record.progressed_at
    records[name] = replace(record, tracker=tracker, progressed_at=progressed_at)
    if tracker.progress.phase != record.tracker.progress.phase:
        now = time.monotonic()
        records[name] = replace(records[name], phases=record.phases_until(now), phase_since=now)
        log.info("replica loading", replica=name, phase=tracker.progress.phase)
