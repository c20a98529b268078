"""`berth exec`: becomes the engine of a replica by execve, in a session of its own. It imports little, to start fast.

First it downloads the files that the engine will read: the engine has neither the hub's token nor network access.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from berth import processes
from berth.boot.checkpoints.cache import cached_snapshot, delete_listing, hub_cache, set_library_cache
from berth.boot.checkpoints.files import READERS, hub_models
from berth.boot.preload import server
from berth.boot.preload.client import run_preloaded, say
from berth.engines.environment import HUB_TOKENS
from berth.errors import MachineError, PortInUseError
from berth.host.disk import writing
from berth.host.net import bind_error
from berth.ipc import reserved_file
from berth.plan import Keys, Launch, Plan, Preload, Ranks, Replica, read_keys, read_plan

EXIT_NOT_STARTABLE = 127  # the engine's program cannot be executed: as in a shell
OWN_PREFIXES = ("BERTH_", "SUPERVISOR_", "OTEL_")  # variables that engines do not need
OTEL_OF_ENGINES = re.compile(  # of those that send spans
    r"OTEL_EXPORTER_OTLP_(TRACES_)?(HEADERS|TIMEOUT|COMPRESSION|CERTIFICATE)|OTEL_RESOURCE_ATTRIBUTES"
)
OOM_SCORE = 500  # of 1000: when memory is short, the kernel kills an engine before the router and control
RAY_START_S = 120.0  # of Ray's head, on a busy machine
RAY_POLL_S = 0.5
DOWNLOAD_SHARE = 0.9  # of the start timeout, without a byte received: then the download fails with its own message


def exec_replica(run_dir: str, name: str) -> NoReturn:
    """Replaces this process by the engine once its model is on disk. Exit codes: 69 port in use or hub unreachable,
    73 a file cannot be written, 78 the model cannot be downloaded, 127 the program cannot be executed.
    """
    plan, keys = read_plan(run_dir), read_keys(run_dir)
    if (preload := next((one for one in plan.preloads if one.name == name), None)) is not None:
        exec_preload(plan, keys, preload)
    launches = {replica.name: (replica, replica.launch) for replica in plan.replicas if replica.launch is not None}
    launches |= {one.attendant_name: (one, one.attendant) for one in plan.replicas if one.attendant is not None}
    if name not in launches:
        raise MachineError(f"unknown replica {name!r}; known: {', '.join(launches) or 'none'}")
    replica, launch = launches[name]
    processes.follow_supervisor(plan.paths)
    open_session()
    raise_oom_score()
    if name == replica.name:
        prepare_engine(plan, replica, launch, keys)
    key = keys.upstream_keys.get(name, "")
    with writing("BERTH_RUN_DIR", plan.paths.run_dir):
        write_files(launch, key)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the engine would inherit that
    marker = f"{plan.paths.run_dir}:{replica.name}"
    own = {name: value for name, value in keys.otel.items() if launch.takes_otel and OTEL_OF_ENGINES.fullmatch(name)}
    env = environment(os.environ, launch, marker, key=key, own=own | keys.engine_env.get(replica.name, {}))
    if name == replica.name:
        fork_engine(plan, replica, launch, env)
    try:
        os.execvpe(launch.argv[0], launch.argv, env)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(
            f"berth exec: {launch.argv[0]!r} cannot be executed: {error.strerror}. Is {replica.engine} installed?\n"
        )
        sys.exit(EXIT_NOT_STARTABLE)


def fork_engine(plan: Plan, replica: Replica, launch: Launch, env: Mapping[str, str]) -> None:
    """Ends as the engine ends, if it can be forked from one that is imported. Otherwise it says why not."""
    for preload in (one for one in plan.preloads if replica.name in one.replicas):
        reason = run_preloaded(plan.paths, replica, preload.name, launch.argv, preload.adds | dict(env))
        say(f"started without the preloaded {replica.engine}: {reason}")


def exec_preload(plan: Plan, keys: Keys, preload: Preload) -> NoReturn:
    """Becomes the process that imports an engine, in the engine's interpreter."""
    like = plan.replica(preload.like)
    if like.launch is None:
        raise MachineError(f"{preload.name}: {like.name!r} is attached: nothing of it can be imported here")
    processes.follow_supervisor(plan.paths)
    open_session()
    raise_oom_score()
    script = like.launch.argv[0]
    config = {
        "socket": str(plan.paths.preload_socket(preload.name)),
        "state": str(plan.paths.preload_state(preload.name)),
        "script": script,
        "modules": preload.modules,
        "differing": preload.differing,
        "replaced": preload.replaced,
    }
    marker = f"{plan.paths.run_dir}:{preload.name}"
    env = preload.adds | environment(os.environ, like.launch, marker, own=keys.engine_env.get(like.name))
    python = str(Path(script).with_name("python"))
    try:
        os.execve(python, [python, str(Path(server.__file__)), json.dumps(config)], env)  # noqa: S606 - no shell is wanted
    except OSError as error:
        say(f"nothing is preloaded: {python!r} cannot be executed: {error.strerror}")
        sys.exit(0)  # supervisord must not try it again


def prepare_engine(plan: Plan, replica: Replica, launch: Launch, keys: Keys) -> None:
    """Its record, and all that it finds when it starts. An attendant needs none of it."""
    with writing("BERTH_RUN_DIR", plan.paths.run_dir):
        plan.paths.leaders.mkdir(mode=0o700, exist_ok=True)
        record = processes.ProcessRecord.current().to_json()
        reserved_file.write(processes.replica_record(plan.paths, replica.name), record)
    require_models(plan, replica, launch, keys)
    require_free_address(replica)
    if replica.ranks is not None and replica.ranks.ray:
        require_ray(replica.ranks)


def environment(
    environ: Mapping[str, str], launch: Launch, marker: str, *, key: str = "", own: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The engine's environment: ours without Berth's variables, the hub's tokens and those that the launch unsets,
    then the launch's variables, its key, and at last the user's own, which win.
    """
    hidden = {*HUB_TOKENS, *launch.unset}
    kept = {name: value for name, value in environ.items() if not name.startswith(OWN_PREFIXES) and name not in hidden}
    # An engine's requests to itself must not go through the company's proxy.
    given = kept.get("NO_PROXY") or kept.get("no_proxy") or ""
    no_proxy = ",".join(filter(None, (given, "127.0.0.1,localhost")))
    keyed = {launch.key_variable: key} if launch.key_variable and key else {}
    return {
        **kept,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        **launch.env,
        **keyed,
        **(own or {}),
        processes.REPLICA_MARKER: marker,
    }


def open_session() -> None:
    """Supervisord starts each program as a process group leader, which cannot open a session: so this process first
    returns to supervisord's group. A session leader stays as it is.
    """
    if os.getsid(0) == os.getpid():
        return
    if os.getpgrp() == os.getpid():
        os.setpgid(0, os.getpgid(os.getppid()))
    os.setsid()


def raise_oom_score() -> None:
    """Raising one's own score needs no privilege. It stays as it is where /proc is read-only."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if int(score.read_text()) < OOM_SCORE:
            score.write_text(str(OOM_SCORE))


def require_models(plan: Plan, replica: Replica, launch: Launch, keys: Keys) -> None:
    """Returns when all hub files that the engine reads are on disk."""
    if replica.engine not in READERS:
        return
    route = next(route for route in plan.models if replica.name in route.replicas)
    models = hub_models(route.source, route.revision, route.extra_sources, launch.argv)
    cache_dir = hub_cache(plan.paths.data_dir)
    snapshots = {model: cached_snapshot(cache_dir, model) for model in models}
    for cached in snapshots.values():
        if cached.folder is not None:
            delete_listing(cached.repository, cached.folder.name)
    missing = [model for model, cached in snapshots.items() if not cached.complete]
    if not missing:
        return
    set_library_cache(plan.paths.data_dir)
    from berth.boot.checkpoints import download  # noqa: PLC0415 - 0.4 s: only when needed
    from berth.boot.checkpoints.hub import Hub  # noqa: PLC0415 - as above

    hub = Hub(cache_dir=str(cache_dir), offline=plan.offline, token=keys.hub_token)
    deadline = download.RetryDeadline(DOWNLOAD_SHARE * replica.start_timeout_s, download.report_to(sys.stderr))
    download.download_models(missing, hub, sys.stderr, deadline)


def require_free_address(replica: Replica) -> None:
    """Some engines load a model for minutes before they notice that their port is in use.

    The socket of a dead engine is removed. Only this user will be able to connect to the new one.
    """
    if path := replica.socket_path:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise PortInUseError(f"{replica.name}: another process listens at {path!r}. Restart Berth")
        Path(path).unlink(missing_ok=True)
        os.umask(os.umask(0o077) | 0o022)
        return
    address = urlsplit(replica.url)
    if error := bind_error(address.hostname or "", address.port or 0):
        where = f"{address.hostname}:{address.port}"
        raise PortInUseError(f"{replica.name}: {where}: {error.strerror}. Restart Berth: it will choose another port")


def require_ray(ranks: Ranks, timeout_s: float = RAY_START_S) -> None:
    """Returns when Ray's head listens: what joins it before ends at once."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((ranks.head, ranks.port), timeout=RAY_POLL_S):
            return
        time.sleep(RAY_POLL_S)
    raise MachineError(
        f"Ray on the head does not answer at {ranks.meeting} within {timeout_s:g} s. Open this port between the boxes"
    )


def write_files(launch: Launch, key: str) -> None:
    """The files and symbolic links that the engine reads. What a previous start has written stays: the disk may be full
    by now.
    """
    texts = [(path, text, 0o644) for path, text in launch.files.items()]
    texts += [(path, text.replace("{key}", key), 0o600) for path, text in launch.key_files.items()]
    for path, text, mode in texts:
        if not _is_written(Path(path), text.encode(), mode):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            processes.replace_file(Path(path), text.encode(), mode=mode)
    for path, target in launch.links.items():
        link = Path(path)
        if link.is_symlink() and os.readlink(link) == target:  # noqa: PTH115 - the text of the link, unchanged
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(target)
        temporary.replace(link)


def _is_written(path: Path, data: bytes, mode: int) -> bool:
    try:
        return path.read_bytes() == data and path.stat().st_mode & 0o777 == mode
    except OSError:
        return False
