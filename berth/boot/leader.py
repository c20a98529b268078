"""`berth exec`: becomes the engine of a replica, as leader of a session of its own. Imports little, to be quick."""

import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from berth import processes
from berth.errors import MachineError, PortInUseError, UnwritableError
from berth.plan import Launch, Plan, Replica, RunPaths

EXIT_NOT_STARTABLE = 127  # the engine's program cannot be run: as in a shell
OWN_PREFIXES = ("BERTH_", "SUPERVISOR_")  # what an engine need not know


def exec_replica(run_dir: str, name: str) -> NoReturn:
    """Replaces this process by the engine. Exits with 69 when its port is taken, 73 when a file cannot be written,
    127 when its program cannot be run.
    """
    plan = read_plan(run_dir)
    replica, launch = _launch(plan, name)
    processes.follow_supervisor(plan.paths)
    _open_session()
    _require_free_port(replica)
    _prepare(plan.paths, replica, launch)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the engine would inherit that
    env = environment(os.environ, launch, f"{plan.paths.run_dir}:{name}")
    try:
        os.execvpe(launch.argv[0], launch.argv, env)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(
            f"berth exec: {launch.argv[0]!r} cannot be run: {error.strerror}. Is {replica.engine} there?\n"
        )
        sys.exit(EXIT_NOT_STARTABLE)


def read_plan(run_dir: str) -> Plan:
    """MachineError where boot has not been, or another version has."""
    path = RunPaths(run_dir=run_dir, data_dir="").plan
    try:
        return Plan.from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MachineError(
            f"{str(path)!r} cannot be read: {error}. Start Berth with this run directory first"
        ) from error


def environment(environ: Mapping[str, str], launch: Launch, marker: str) -> dict[str, str]:
    """What the engine sees: our environment less our own variables and those it must not see, plus its own."""
    kept = {
        name: value for name, value in environ.items() if not name.startswith(OWN_PREFIXES) and name not in launch.unset
    }
    return kept | launch.env | {processes.REPLICA_MARKER: marker}


def _launch(plan: Plan, name: str) -> tuple[Replica, Launch]:
    names = [replica.name for replica in plan.replicas if replica.launch is not None]
    if name not in names:
        raise MachineError(f"{name!r} is no replica that Berth starts. There are: {', '.join(names) or 'none'}")
    replica = plan.replica(name)
    assert replica.launch is not None  # noqa: S101 - one of the names
    return replica, replica.launch


def _open_session() -> None:
    """The leader of a group, which supervisord has made of this process, cannot open a session: so it goes back to
    supervisord's group first. A process that leads a session already stays as it is.
    """
    if os.getsid(0) == os.getpid():
        return
    if os.getpgrp() == os.getpid():
        os.setpgid(0, os.getpgid(os.getppid()))
    os.setsid()


def _require_free_port(replica: Replica) -> None:
    """Some engines load a model for minutes before they find out that their port is taken."""
    address = urlsplit(replica.url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.hostname, address.port))
        except OSError as error:
            where = f"{address.hostname}:{address.port}"
            raise PortInUseError(
                f"{replica.name}: {where}: {error.strerror}. Start Berth again to choose another"
            ) from error


def _prepare(paths: RunPaths, replica: Replica, launch: Launch) -> None:
    """The leader's record, and the engine's files and links."""
    try:
        processes.write_record(processes.leader_record(paths, replica.name), processes.Leader.current())
        for path, text in launch.files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            processes.replace_file(Path(path), text.encode())
        for path, target in launch.links.items():
            _link(Path(path), target)
    except OSError as error:
        path = error.filename or paths.run_dir  # a full disk names no file
        raise UnwritableError(f"{replica.name}: {path!r} cannot be written: {error.strerror}") from error


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(path)
