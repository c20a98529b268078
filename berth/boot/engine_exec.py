"""`berth exec`: becomes the engine of a replica, as leader of a session of its own. Imports little, to be quick.

Before that it downloads what the engine will read: it is the only one that knows the hub's token.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from berth import processes
from berth.boot.checkpoints.cache import cached_snapshot, delete_listing, hub_cache, set_library_cache
from berth.boot.checkpoints.files import READERS, hub_models
from berth.errors import MachineError, PortInUseError, UnwritableError
from berth.plan import Keys, Launch, Plan, Replica, RunPaths

EXIT_NOT_STARTABLE = 127  # the engine's program cannot be run: as in a shell
OWN_PREFIXES = ("BERTH_", "SUPERVISOR_")  # what an engine need not know
HUB_TOKENS = frozenset({"HF_TOKEN", "HF_TOKEN_FILE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})  # nor have
OOM_SCORE = 500  # of 1000: where memory is short, the kernel takes an engine before the router and control
PATIENCE = 0.9  # of the start's timeout: then the download says itself that nothing comes


def exec_replica(run_dir: str, name: str) -> NoReturn:
    """Replaces this process by the engine, as soon as its model is there. Exits with 69 when its port is taken or the
    hub is out of reach, 73 when a file cannot be written, 78 when the model cannot be had, 127 when its program cannot
    be run.
    """
    plan = read_plan(run_dir)
    keys = read_keys(plan.paths)
    replica, launch = _launch(plan, name)
    processes.follow_supervisor(plan.paths)
    _open_session()
    with _writing(plan.paths, replica):
        processes.write_record(processes.leader_record(plan.paths, name), processes.Leader.current())
    _offer_to_kernel()
    _require_models(plan, replica, launch, keys)
    _require_free_address(replica)
    key = keys.upstream_keys.get(name, "")
    with _writing(plan.paths, replica):
        _prepare(launch, key)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the engine would inherit that
    marker = f"{plan.paths.run_dir}:{name}"
    env = environment(os.environ, launch, marker, key=key, own=keys.engine_env.get(name, {}))
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


def read_keys(paths: RunPaths) -> Keys:
    """None at all where there is no such file; MachineError for one that cannot be read."""
    try:
        return Keys.from_json(paths.keys.read_bytes())
    except FileNotFoundError:
        return Keys()
    except (OSError, ValueError) as error:
        raise MachineError(f"{str(paths.keys)!r} cannot be read: {error}. Start Berth again") from error


def environment(
    environ: Mapping[str, str], launch: Launch, marker: str, *, key: str = "", own: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the engine sees: our environment less our own variables, the hub's tokens and those it must not see, plus
    what its launch says, its key, and at last the user's variables for it, which win.
    """
    hidden = HUB_TOKENS | set(launch.unset)
    kept = {name: value for name, value in environ.items() if not name.startswith(OWN_PREFIXES) and name not in hidden}
    keyed = {launch.key_variable: key} if launch.key_variable and key else {}
    return kept | _no_proxy(kept) | launch.env | keyed | dict(own or {}) | {processes.REPLICA_MARKER: marker}


def _no_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Engines ask themselves over HTTP: never through the company's proxy."""
    given = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    listed = ",".join(filter(None, (given, "127.0.0.1,localhost")))
    return {"NO_PROXY": listed, "no_proxy": listed}


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


def _require_free_address(replica: Replica) -> None:
    """Some engines load a model for minutes before they find out that their port is taken."""
    if replica.socket_path:
        _free_socket(replica, replica.socket_path)
    else:
        _require_free_port(replica)


def _free_socket(replica: Replica, path: str) -> None:
    """Takes away what a dead engine left. Only this user may connect to what is made in its place."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise PortInUseError(f"{replica.name}: something listens at {path!r}. Start Berth again")
    Path(path).unlink(missing_ok=True)
    os.umask(os.umask(0o077) | 0o022)


def _require_free_port(replica: Replica) -> None:
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


def _offer_to_kernel() -> None:
    """Raising one's own score needs no rights; where /proc is read-only it stays."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if int(score.read_text()) < OOM_SCORE:
            score.write_text(str(OOM_SCORE))


def _require_models(plan: Plan, replica: Replica, launch: Launch, keys: Keys) -> None:
    """Returns when everything of the hub that the engine reads is on the disk."""
    if replica.engine not in READERS:
        return
    route = next(route for route in plan.models if replica.name in route.replicas)
    models = hub_models(route.source, route.revision, route.extra_sources, launch.argv)
    cache_dir = hub_cache(plan.paths.data_dir)
    snapshots = {model: cached_snapshot(cache_dir, model) for model in models}
    for here in snapshots.values():
        if here.folder is not None:
            delete_listing(here.repository, here.folder.name)
    missing = [model for model, here in snapshots.items() if not here.complete]
    if not missing:
        return
    set_library_cache(plan.paths.data_dir)
    from berth.boot.checkpoints.download import RetryDeadline, download_models, report_to  # noqa: PLC0415 - half a second: only if it must be
    from berth.boot.checkpoints.hub import Hub  # noqa: PLC0415 - as above

    hub = Hub(cache_dir=str(cache_dir), offline=plan.offline, token=keys.hub_token)
    deadline = RetryDeadline(PATIENCE * replica.start_timeout_s, report_to(sys.stderr))
    download_models(missing, hub, sys.stderr, deadline)


@contextlib.contextmanager
def _writing(paths: RunPaths, replica: Replica) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or paths.run_dir  # a full disk names no file
        raise UnwritableError(f"{replica.name}: {path!r} cannot be written: {error.strerror}") from error


def _prepare(launch: Launch, key: str) -> None:
    """The engine's files and links."""
    texts = [(path, text, 0o644) for path, text in launch.files.items()]
    texts += [(path, text.replace("{key}", key), 0o600) for path, text in launch.key_files.items()]
    for path, text, mode in texts:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        processes.replace_file(Path(path), text.encode(), mode=mode)
    for path, target in launch.links.items():
        _link(Path(path), target)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(path)
