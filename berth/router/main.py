"""`berth router`: Granian's workers, each with the application of berth.router.app. Runs until SIGTERM."""

import math
import time
from functools import partial
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels

from berth.errors import PortInUseError, UnwritableError
from berth.host.net import bind_error
from berth.ipc.heartbeats import ROUTER, Heartbeat
from berth.log import configure, log
from berth.plan import Listen, Logs, Plan, read_plan
from berth.processes import channel, follow_supervisor
from berth.router.app import App
from berth.router.client_connections import own_room, raise_limit
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import open_worker
from berth.router.workers import Workers

# A client that sends a request on an idle connection which is just being closed gets an error. So its own limit has to
# be the lower one: 60 s for nginx, 90 s for Go, 300 s for OkHttp, 600 s for Google's load balancers.
_IDLE_MS = 620_000  # from the response to the end of the next request's head
# For the clients' connections, next to Python's thread. In Granian's other mode it is woken by a system call for each
# message to a client, in this one by one for all that is sent meanwhile.
_CLIENT_THREADS = 1
_KILL_AFTER_DRAIN_S = 5  # to write error frames, and for a worker that hangs
_PORT_TIMEOUT_S = 5.0  # the workers of a router that was killed are just ending


def serve(run_dir: str) -> int:
    """Serves until SIGTERM; then requests in flight have BERTH_DRAIN_TIMEOUT to finish. Returns the exit code.

    ControlError when the plan cannot be read, PortInUseError when the port is taken, UnwritableError when the run
    directory is full.
    """
    plan = read_plan(run_dir)
    logs, output = plan.logs, channel(plan.paths, "router")
    configure(program="router", log_format=logs.format, level=logs.level, channel=output)
    follow_supervisor(plan.paths)
    heartbeat = Heartbeat(plan.paths.heartbeats, ROUTER)
    check_port(plan.listen, timeout_s=_PORT_TIMEOUT_S)
    try:
        Scoreboard.ensure(plan.paths.scoreboard, layout(plan), plan.listen.most_workers)
    except OSError as exc:
        raise UnwritableError(f"Cannot write {plan.paths.scoreboard}: {exc}. Free some space there.") from exc
    raise_limit()
    log.info("serving", host=plan.listen.host, port=plan.listen.port, workers=plan.listen.workers)
    server_of(plan).serve(target_loader=partial(load, run_dir), wrap_loader=False)
    heartbeat.close()
    log.info("stopped")
    return 0


def server_of(plan: Plan) -> Workers:
    tls = plan.paths.tls if plan.listen.tls_cert else None
    return Workers(
        "berth.router.app",  # only a name for messages: the loader below makes the application
        address=plan.listen.host,
        port=plan.listen.port,
        interface=Interfaces.ASGI,
        workers=plan.listen.workers,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=_CLIENT_THREADS,
        loop=Loops.uvloop,
        http=HTTPModes.auto if tls else HTTPModes.http1,  # browsers speak HTTP/2 with TLS alone
        ssl_cert=tls,
        ssl_key=tls,
        ssl_protocol_min=SSLProtocols.tls12,
        websockets=False,
        backpressure=own_room().accepted,  # further connections wait in the kernel
        http1_settings=HTTP1Settings(header_read_timeout=_IDLE_MS),
        workers_kill_timeout=math.ceil(plan.limits.drain_timeout_s) + _KILL_AFTER_DRAIN_S,
        log_level=LogLevels.warning,
        log_dictconfig=_granian_logs(plan.logs),
    )


def load(run_dir: str) -> App:
    """The application, made in the worker's process."""
    return App(open_worker(run_dir))


def check_port(listen: Listen, *, timeout_s: float) -> None:
    """PortInUseError when another process has the port for longer than that. Workers share theirs (SO_REUSEPORT), so a
    second router would get half of the first one's connections instead of an error.
    """
    deadline = time.monotonic() + timeout_s
    while (error := bind_error(listen.host, listen.port)) is not None:
        if time.monotonic() > deadline:
            raise PortInUseError(
                f"Cannot listen on {listen.host}:{listen.port}: {error.strerror}. "
                "Set BERTH_PORT to a free port, or stop the program that listens there."
            )
        time.sleep(0.1)


def _granian_logs(logs: Logs) -> dict[str, Any]:
    """Granian's own lines in the format of Berth's log, without those about normal work."""
    return {
        "formatters": {"line": {"()": "berth.log.LineFormatter", "program": "router", "log_format": logs.format}},
        "handlers": {"stdout": {"class": "berth.log.LineHandler", "formatter": "line", "stream": "ext://sys.stdout"}},
        "loggers": {"_granian": {"handlers": ["stdout"], "propagate": False}},
    }
