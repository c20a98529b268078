"""The edges of boot: reads the environment, looks at the machine, writes the run directory, becomes supervisord."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from berth import log as logs
from berth import processes
from berth.boot import preflight, supervisord_conf
from berth.boot.config import checkout
from berth.boot.config.settings import Settings, load
from berth.boot.foreground import spawn
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.inputs import look
from berth.boot.preflight import Level
from berth.errors import MachineError, UnwritableError
from berth.log import log
from berth.plan import Keys, Plan, Replica, RunPaths

LEFTOVERS_GRACE_S = 3.0
HUB_SECRETS = frozenset({"HF_TOKEN", "HF_TOKEN_FILE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})


def plan_from(environ: Mapping[str, str]) -> Plan:
    """What would be started here and now. Starts and writes nothing."""
    settings = load(environ, defaults=checkout.defaults(environ))
    return make_plan(settings, look(settings, environ))


def boot(environ: Mapping[str, str]) -> NoReturn:
    """Becomes the supervisord of the appliance that the environment describes, or raises a BerthError.

    The order matters: one boot at a time; what an earlier life left is ended before its port, its GPU memory and
    its disk space are looked at; and nothing is written before all is known to be well.
    """
    settings = load(environ, defaults=checkout.defaults(environ))
    logs.configure(program="boot", log_format=settings.log_format, level=settings.log_level)
    paths = RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir)
    _make_directories(paths)
    with _writing(paths):
        lock = take_lock(paths)
        end_leftovers(paths)
    plan = make_plan(settings, look(settings, environ))
    _check(settings, plan)
    make_caches(plan)
    write_files(plan, make_keys(settings, plan))
    announce(plan)
    _become_supervisord(plan, supervisor_environment(environ, settings), lock)


def take_lock(paths: RunPaths) -> int:
    """The open lock file; the lock lasts as long as a process has it open. MachineError while an appliance lives."""
    record = processes.read_record(processes.supervisor_record(paths))
    lock = os.open(Path(paths.run_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise _runs_already(paths, record) from error
    if record is not None and record.alive() and record.pid != os.getpid():
        os.close(lock)
        raise _runs_already(paths, record)
    return lock


def _runs_already(paths: RunPaths, record: processes.Leader | None) -> MachineError:
    who = f" (supervisord has pid {record.pid})" if record is not None and record.alive() else ""
    return MachineError(
        f"an appliance with BERTH_RUN_DIR={paths.run_dir!r} runs already{who}. "
        "Stop it, or give this one a BERTH_RUN_DIR and a BERTH_PORT of its own"
    )


def end_leftovers(paths: RunPaths) -> None:
    """Ends what is left of an earlier life of this run directory, and takes its traces away."""
    left = processes.appliance_remains(paths)
    if left:
        log.warning("ending what an earlier life left", pids=" ".join(map(str, left)))
    survivors = processes.sweep(lambda: processes.appliance_remains(paths), LEFTOVERS_GRACE_S)
    if survivors:
        raise MachineError(
            f"processes {', '.join(map(str, survivors))} are left of an earlier life of {paths.run_dir!r} and do not "
            "end, not even by SIGKILL: look at dmesg for the GPU driver's or the disk's errors, or reboot"
        )
    stale = [paths.state, paths.scoreboard, paths.supervisord_pid, *Path(paths.run_dir).glob("*.sock")]
    for path in (*stale, *paths.leaders.glob("*.json")):
        path.unlink(missing_ok=True)


def make_caches(plan: Plan) -> None:
    """The folders of all engines' caches. One that another user made in an earlier life is told now, not by a
    compiler in the middle of a start.
    """
    launches = [replica.launch for replica in plan.replicas if replica.launch is not None]
    for folder in sorted({folder for launch in launches for folder in launch.folders}):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        except OSError as error:
            raise _unwritable("BERTH_DATA", plan.paths.data_dir, error) from error


def write_files(plan: Plan, keys: Keys) -> None:
    """plan.json, keys.json and supervisord.conf, each of them whole or not at all."""
    conf = supervisord_conf.render(plan, python=sys.executable)
    with _writing(plan.paths):
        processes.replace_file(plan.paths.plan, plan.to_json(), mode=0o600)
        processes.replace_file(plan.paths.keys, keys.to_json(), mode=0o600)
        processes.replace_file(plan.paths.supervisord_conf, conf.encode(), mode=0o600)


def announce(plan: Plan) -> None:
    """What will be served by which engine, and why; and what the operator should know."""
    for route in plan.models:
        names = [plan.replica(name) for name in route.replicas]
        log.info(
            "will serve",
            model=route.name,
            engines=", ".join(_engine(replica) for replica in names),
            reason=names[0].reason if names else "",
            **({"standby": str(route.standby)} if len(names) > 1 else {}),
        )
    for warning in plan.warnings:
        log.warning(warning)
    log.info("starting", url=f"http://{plan.listen.host}:{plan.listen.port}", run_dir=plan.paths.run_dir)


def supervisor_environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Ours without any secret or setting of Berth: what programs need of those lies in plan.json and keys.json."""
    kept = {name: value for name, value in environ.items() if not name.startswith("BERTH_") and name not in HUB_SECRETS}
    return kept | {processes.APPLIANCE_MARKER: settings.run_dir}


def _engine(replica: Replica) -> str:
    if replica.launch is None:
        return f"{replica.engine} {replica.url}"
    where = f"GPU {' '.join(map(str, replica.gpus))}" if replica.gpus else "CPU"
    return f"{replica.engine} ({where})"


def _make_directories(paths: RunPaths) -> None:
    with _writing(paths):
        for folder in (Path(paths.run_dir), paths.logs, paths.leaders):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        Path(paths.data_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable("BERTH_DATA", paths.data_dir, error) from error


@contextlib.contextmanager
def _writing(paths: RunPaths) -> Iterator[None]:
    """What cannot be written in the run directory is an UnwritableError."""
    try:
        yield
    except OSError as error:
        raise _unwritable("BERTH_RUN_DIR", paths.run_dir, error) from error


def _unwritable(variable: str, path: str, error: OSError) -> UnwritableError:
    return UnwritableError(". ".join(preflight.write_trouble(variable, path, error)))


def _check(settings: Settings, plan: Plan) -> None:
    findings = preflight.checks(settings, plan.replicas)
    preflight.require(findings)
    for finding in findings:
        if finding.level is Level.WARN:
            log.warning(str(finding))


def _become_supervisord(plan: Plan, environ: dict[str, str], lock: int) -> NoReturn:
    """In a child, by execve: its pid stays, and with it the record that tells a later boot who runs here. This process
    stays in the foreground.
    """
    argv = [sys.executable, "-X", "utf8", "-P", "-m", "supervisor.supervisord", "-n", "-c"]
    with _writing(plan.paths):
        spawn.stay(plan, environ, lock)
    spawn.wake(plan.paths.supervisord_socket, lock)
    with _writing(plan.paths):
        processes.write_record(processes.supervisor_record(plan.paths), processes.Leader.current())
    processes.adopt_orphans()
    preflight.raise_open_files()
    os.set_inheritable(lock, True)
    os.execve(argv[0], [*argv, str(plan.paths.supervisord_conf)], environ)  # noqa: S606 - no shell is wanted
