"""Boot: reads the environment, inspects the host, writes the run directory, becomes supervisord."""

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from berth import __version__, processes
from berth import log as logs
from berth.boot import preflight, supervisord_conf
from berth.boot.config import checkout
from berth.boot.config.reference import configuration
from berth.boot.config.settings import Settings, load
from berth.boot.foreground import spawn
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.inputs import inspect_host
from berth.boot.preflight import Level
from berth.engines.environment import HUB_TOKENS
from berth.errors import ControlError, MachineError
from berth.host import tls
from berth.host.disk import writing
from berth.ipc import heartbeats, journal, key_counters, reserved_file, shadow_counts, traffic
from berth.ipc.operations import COUNTS_BYTES, HISTORY, OPERATION_BYTES
from berth.log import log
from berth.plan import Keys, Plan, RunPaths, read_plan
from berth.records import audit, revisions, usage
from berth.records.usage import NOTE_BYTES
from berth.state import most_bytes as state_bytes

LEFTOVERS_GRACE_S = 3.0
RECORD_BYTES = 4096
TRACER_BYTES = 4096
_DIGEST_DIGITS = 16
CONTROL_STATE_BYTES = 4096  # for each replica, and once more
FAILURE_BYTES = 24  # of the control state, for each failure that it remembers of a replica


def plan_from(environ: Mapping[str, str]) -> Plan:
    """What would be started here and now. Starts and writes nothing."""
    settings = load(environ, defaults=checkout.defaults(environ))
    return make_plan(settings, inspect_host(settings, environ))


def boot(environ: Mapping[str, str]) -> NoReturn:
    """Becomes the supervisord of the appliance that the environment describes, or raises a BerthError.

    The order matters: one boot at a time; leftover processes of a previous run are terminated before port, GPU memory
    and disk space are checked; and nothing is written before all checks have passed.
    """
    settings = load(environ, defaults=checkout.defaults(environ))
    logs.configure(program="boot", log_format=settings.log_format, level=settings.log_level)
    paths = RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir)
    with writing("BERTH_RUN_DIR", paths.run_dir):
        for folder in (Path(paths.run_dir), paths.logs, paths.leaders):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with writing("BERTH_DATA", paths.data_dir):
        Path(paths.data_dir).mkdir(parents=True, exist_ok=True)
    with writing("BERTH_RUN_DIR", paths.run_dir):
        lock = take_lock(paths)
        end_leftovers(paths)
        keep_usage(paths)
        remove_leftovers(paths)
    with writing("BERTH_DATA", paths.data_dir):
        revisions.make_key(paths.data_dir)
    plan = make_plan(settings, inspect_host(settings, environ))
    findings = [*preflight.checks(settings, plan.replicas), *preflight.quoted_variables(environ)]
    preflight.require(findings)
    for finding in findings:
        if finding.level is Level.WARN:
            log.warning(str(finding))
    make_caches(plan)
    plan = replace(plan, configuration=configuration(environ))
    write_files(plan, make_keys(settings, plan, environ))
    reserve_space(plan)
    announce(plan)
    keep_revisions(plan)
    record_boot(plan, environ)
    _become_supervisord(plan, supervisor_environment(environ, settings), lock)


def take_lock(paths: RunPaths) -> int:
    """The open lock file; the lock lasts as long as a process has it open. MachineError while an appliance runs."""
    record = processes.read_record(processes.supervisor_record(paths))
    lock = os.open(Path(paths.run_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise _already_running(paths, record) from error
    if record is not None and record.alive() and record.pid != os.getpid():
        os.close(lock)
        raise _already_running(paths, record)
    return lock


def _already_running(paths: RunPaths, record: processes.ProcessRecord | None) -> MachineError:
    who = f" (supervisord has pid {record.pid})" if record is not None and record.alive() else ""
    return MachineError(
        f"an appliance with BERTH_RUN_DIR={paths.run_dir!r} is already running{who}. "
        "Stop it, or set another BERTH_RUN_DIR and BERTH_PORT for this one"
    )


def end_leftovers(paths: RunPaths) -> None:
    """Terminates the processes of a previous run in this run directory."""
    left = processes.appliance_leftovers(paths)
    if left:
        log.warning("terminating leftover processes", pids=" ".join(map(str, left)))
    survivors = processes.sweep(lambda: processes.appliance_leftovers(paths), LEFTOVERS_GRACE_S)
    if survivors:
        raise MachineError(
            f"processes {', '.join(map(str, survivors))} of a previous run in {paths.run_dir!r} survived SIGKILL; "
            "check dmesg for GPU driver or disk errors, or reboot"
        )


def keep_usage(paths: RunPaths) -> None:
    """Writes down what the previous run had not: it was killed, or its control was when it stopped."""
    if not paths.key_counters.exists():
        return
    try:
        usage.write_rest(read_plan(paths.run_dir))
    except (ControlError, OSError, ValueError) as error:
        log.warning("usage of the previous run not written", reason=str(error))


def remove_leftovers(paths: RunPaths) -> None:
    """The files of a previous run."""
    stale = [paths.state, paths.scoreboard, paths.key_counters, paths.usage_notes, paths.heartbeats]
    stale += [paths.shadow_counts, paths.supervisord_pid]
    stale += [*Path(paths.run_dir).glob("*.sock"), *Path(paths.run_dir).glob("*.preload.json")]
    for path in (*stale, *paths.leaders.glob("*.json")):
        path.unlink(missing_ok=True)


def make_caches(plan: Plan) -> None:
    """Creates the folders of all engines' caches. One that another user owns is reported now, not by a compiler in the
    middle of a start.
    """
    launches = [replica.launch for replica in plan.replicas if replica.launch is not None]
    with writing("BERTH_DATA", plan.paths.data_dir):
        for folder in sorted({folder for launch in launches for folder in launch.folders}):
            Path(folder).mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def write_files(plan: Plan, keys: Keys) -> None:
    """plan.json, keys.json, supervisord.conf, and tls.pem if there is a certificate, each of them atomically."""
    conf = supervisord_conf.render(plan, python=sys.executable)
    with writing("BERTH_RUN_DIR", plan.paths.run_dir):
        if plan.listen.tls_cert:
            tls.install(plan.listen.tls_cert, plan.listen.tls_key, plan.paths.tls)
        processes.replace_file(plan.paths.plan, plan.to_json(), mode=0o600)
        processes.replace_file(plan.paths.keys, keys.to_json(), mode=0o600)
        processes.replace_file(plan.paths.supervisord_conf, conf.encode(), mode=0o600)


def reserve_space(plan: Plan) -> None:
    """For all that control, the router and `berth exec` write while Berth runs. They work with a full disk too."""
    replicas = len(plan.replicas)
    with writing("BERTH_RUN_DIR", plan.paths.run_dir):
        heartbeats.reserve(plan.paths.heartbeats)
        reserved_file.reserve(plan.paths.state, state_bytes(replicas))
        each = CONTROL_STATE_BYTES + FAILURE_BYTES * plan.restarts.failures
        longest = max((len("".join(route.replicas)) + 8 * len(route.replicas) for route in plan.models), default=0)
        operations = (OPERATION_BYTES + 3 * longest) * HISTORY  # each names replicas up to three times
        operations += COUNTS_BYTES * len(plan.models)
        reserved_file.reserve(plan.paths.control_state, CONTROL_STATE_BYTES + operations + replicas * each)
        journal.reserve(plan.paths.journal, plan.listen.most_workers)
        key_counters.reserve(plan.paths.key_counters, key_counters.Shape.of(plan))
        shadow_counts.reserve(plan)
        if plan.tracing:
            reserved_file.reserve(plan.paths.tracer, TRACER_BYTES)
        uses = plan.limits.key_slots * len(plan.routes)
        reserved_file.reserve(plan.paths.usage_notes, NOTE_BYTES * (1 + uses))
        traffic.reserve(plan.paths.traffic, replicas, len(plan.models), plan.listen.most_workers)
        for replica in plan.replicas:
            if replica.launch is not None:
                reserved_file.reserve(processes.replica_record(plan.paths, replica.name), RECORD_BYTES)
        for name in (name for preload in plan.preloads for name in preload.replicas):
            reserved_file.reserve(processes.forked_record(plan.paths, name), RECORD_BYTES)


def announce(plan: Plan) -> None:
    """Logs which engines will serve each model and why, and the plan's warnings."""
    for route in plan.models:
        replicas = [plan.replica(name) for name in route.replicas]
        engines = []
        for replica in replicas:
            where = f"(GPU {' '.join(map(str, replica.gpus))})" if replica.gpus else "(CPU)"
            engines.append(f"{replica.kind} {where if replica.launch else replica.url}")
        log.info(
            "model planned",
            model=route.name,
            engines=", ".join(engines),
            reason=replicas[0].reason if replicas else "",
            **({"standby": str(route.standby)} if len(replicas) > 1 else {}),
        )
    for warning in plan.warnings:
        log.warning(warning)
    log.info("starting", url=plan.listen.url(), run_dir=plan.paths.run_dir)


def keep_revisions(plan: Plan) -> None:
    """Those that are new, or that other versions of the engines serve now."""
    known = revisions.read(plan.paths.data_dir).revisions
    new = [one for one in plan.revisions if one not in known]
    try:
        if new:
            revisions.keep(plan.paths.data_dir, *new)
    except (OSError, ValueError) as error:
        log.warning("revisions not written", reason=str(error))
    for one in new:
        log.info("revision", model=one.model, number=one.number, by=one.by)


def record_boot(plan: Plan, environ: Mapping[str, str]) -> None:
    """In the audit: the variables that are set, by name."""
    names = " ".join(sorted(name for name in environ if name.startswith("BERTH_") and environ[name]))
    digest = hashlib.sha256(plan.to_json().replace(str(plan.created).encode(), b"")).hexdigest()[:_DIGEST_DIGITS]
    details = {"version": __version__, "plan": digest, "variables": names}
    entry = audit.Entry(t=plan.created, who="boot", what="boot", result="started", details=details)
    audit.report(entry)
    try:
        audit.append(plan.paths.data_dir, entry)
    except OSError as error:
        log.warning("audit not written", reason=str(error))


def supervisor_environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Ours without secrets and settings: programs read what they need of those from plan.json and keys.json. An engine
    that found OTEL_* would send spans by itself.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("BERTH_", "OTEL_")) and name not in HUB_TOKENS
    }
    return kept | {processes.APPLIANCE_MARKER: settings.run_dir}


def _become_supervisord(plan: Plan, environ: dict[str, str], lock: int) -> NoReturn:
    """In a child, by execve: its pid stays the same, and so its record is valid for a later boot. This process stays in
    the foreground.
    """
    argv = [sys.executable, "-X", "utf8", "-P", "-m", "supervisor.supervisord", "-n", "-c"]
    with writing("BERTH_RUN_DIR", plan.paths.run_dir):
        spawn.stay(plan, environ, lock)
        processes.write_record(processes.supervisor_record(plan.paths), processes.ProcessRecord.current())
    spawn.wake(plan.paths.supervisord_socket, lock)
    processes.adopt_orphans()
    preflight.raise_open_files()
    os.set_inheritable(lock, True)
    os.execve(argv[0], [*argv, str(plan.paths.supervisord_conf)], environ)  # noqa: S606 - no shell is wanted
