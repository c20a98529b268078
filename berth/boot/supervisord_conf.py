"""supervisord.conf from a Plan: control, the router, the tracer if there are traces, the bench that control starts on
request, and one program per replica that Berth starts. Pure.

supervisord stops the group of highest priority first and waits for it: the router drains while its engines still
run, then the engines stop, and control stops last, so that it can terminate their leftover processes.

supervisord's own log is a file. The raw output of control and the router, before they have set up logging and when they
crash, goes to the FIFOs that the foreground process reads.
"""

import math
import re
import shlex

from berth.errors import ConfigError, Problem
from berth.ipc.bench import PROGRAM
from berth.plan import Plan, Preload, Replica
from berth.processes import channel

GROUP = "engine"  # the supervisor's name of a replica is "engine:<replica>"
CONTROL_PRIORITY, PRELOAD_PRIORITY, ENGINE_PRIORITY, ROUTER_PRIORITY, BENCH_PRIORITY = 100, 150, 200, 300, 400
SHUTDOWN_S = 15  # SIGTERM to exit of the whole appliance, with the default drain timeout
PRELOAD_RETRIES = 3
PRELOAD_STOP_S = 1  # it holds nothing
TRACER_STOP_S = 2  # for the last spans
CONTROL_STOP_S = 2  # it terminates leftover processes of the engines
ENGINE_STOP_LEAST_S = 2  # then SIGKILL: by then the router has drained, and no request is in flight
UNLIMITED = 1_000_000  # start retries: control and the router are always started again
# A start that ends sooner has failed: the next one follows after 1 s, then 2 s, 3 s ... A program that ends later than
# this is restarted at once, which cannot be more often than every 10 s.
START_S = 10
FILE_DESCRIPTORS = 1024  # supervisord raises its own limit to this

# Ends a value or begins a comment: supervisord has no escape for it, not even inside quotes.
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\s[;#]")

Section = dict[str, str | int]


def render(plan: Plan, *, python: str) -> str:
    """The text of supervisord.conf. ConfigError for a run directory whose path it cannot contain."""
    replicas = [replica for replica in plan.replicas if replica.launch is not None]
    drain_s = math.ceil(plan.limits.drain_timeout_s) + 1
    sections: dict[str, Section] = {
        "supervisord": supervisord_section(plan),
        "unix_http_server": {"file": _value(str(plan.paths.supervisord_socket)), "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "program:control": _service(plan, python, "control")
        | {"priority": CONTROL_PRIORITY, "stopwaitsecs": CONTROL_STOP_S},
        "program:router": _service(plan, python, "router") | {"priority": ROUTER_PRIORITY, "stopwaitsecs": drain_s},
    }
    if replicas:  # control starts it for a request of /admin/bench
        sections[f"program:{PROGRAM}"] = bench_section(plan, python)
    if plan.tracing:
        sections["program:tracer"] = _service(plan, python, "tracer") | {
            "priority": CONTROL_PRIORITY,
            "stopwaitsecs": TRACER_STOP_S,
        }
    for replica in replicas:
        sections[f"program:{replica.name}"] = engine_section(plan, replica, python)
        if replica.attendant is not None:  # control starts it with the engine, and ends it after that one
            command = _command(plan, python, "exec", replica.attendant_name)
            sections[f"program:{replica.attendant_name}"] = engine_section(plan, replica, python) | {"command": command}
    for preload in plan.preloads:
        sections[f"program:{preload.name}"] = preload_section(plan, preload, python)
    if replicas:
        attendants = [one.attendant_name for one in replicas if one.attendant]
        names = ",".join((*(replica.name for replica in replicas), *attendants))
        sections[f"group:{GROUP}"] = {"programs": names, "priority": ENGINE_PRIORITY}
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in values.items()), ""]
    return "\n".join(lines)


def supervisord_section(plan: Plan) -> Section:
    return {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _value(str(plan.paths.logs / "supervisord.log")),
        "logfile_maxbytes": "1MB",
        "logfile_backups": 1,
        "loglevel": "info",
        "pidfile": _value(str(plan.paths.supervisord_pid)),
        "childlogdir": _value(str(plan.paths.logs)),
        "nocleanup": "true",
        "minfds": FILE_DESCRIPTORS,
        "minprocs": 1,
    }


def _service(plan: Plan, python: str, program: str) -> Section:
    """A program that always runs."""
    return {
        "command": _command(plan, python, program),
        "autostart": "true",
        "autorestart": "true",
        "startsecs": START_S,
        "startretries": UNLIMITED,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _value(_value(str(channel(plan.paths, program)))),  # supervisord expands this one twice
        "stdout_logfile_maxbytes": 0,
    }


def engine_section(plan: Plan, replica: Replica, python: str) -> Section:
    """Control decides about each start and restart: supervisord only reports, without retries."""
    return {
        "command": _command(plan, python, "exec", replica.name),
        "autostart": "false",
        "autorestart": "false",
        "startsecs": 0,
        "startretries": 0,
        "stopwaitsecs": engine_stop_s(plan, replica),
        "stopasgroup": "false",  # the engine stops its workers; a SIGTERM to all looks like a crash to them
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _value(_value(str(plan.paths.replica_log(replica.name)))),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": 3,
    }


def preload_section(plan: Plan, preload: Preload, python: str) -> Section:
    """It is started again when it was killed, and not where it says that it is of no use. It ends after the engines."""
    return engine_section(plan, plan.replica(preload.like), python) | {
        "command": _command(plan, python, "exec", preload.name),
        "autostart": "true",
        "autorestart": "unexpected",
        "exitcodes": 0,
        "startsecs": START_S,
        "startretries": PRELOAD_RETRIES,
        "priority": PRELOAD_PRIORITY,
        "stopwaitsecs": PRELOAD_STOP_S,
        "stdout_logfile": _value(_value(str(plan.paths.logs / f"{preload.name}.log"))),
        "stdout_logfile_maxbytes": "1MB",
        "stdout_logfile_backups": 1,
    }


def bench_section(plan: Plan, python: str) -> Section:
    """Its lease ends when it does, and everything is as before: it is not started again."""
    return {
        "command": _command(plan, python, "bench", "order"),
        "autostart": "false",
        "autorestart": "false",
        "startsecs": 0,
        "startretries": 0,
        "priority": BENCH_PRIORITY,
        "stopwaitsecs": CONTROL_STOP_S,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _value(_value(str(plan.paths.logs / f"{PROGRAM}.log"))),
        "stdout_logfile_maxbytes": "1MB",
        "stdout_logfile_backups": 1,
    }


def engine_stop_s(plan: Plan, replica: Replica) -> int:
    """Time between SIGTERM and SIGKILL: the engine's own stop timeout, within the time for a shutdown."""
    left = SHUTDOWN_S - math.ceil(plan.limits.drain_timeout_s) - CONTROL_STOP_S - 1
    left -= TRACER_STOP_S if plan.tracing else 0
    return math.ceil(min(replica.stop_timeout_s, max(left, ENGINE_STOP_LEAST_S)))


def _command(plan: Plan, python: str, program: str, *arguments: str) -> str:
    # -P: Python imports no module from the working directory.
    argv = [python, "-P", "-m", "berth", program, "--run-dir", plan.paths.run_dir, *arguments]
    return _value(shlex.join(argv))


def _value(text: str) -> str:
    if FORBIDDEN.search(text):
        problem = Problem(
            variable="BERTH_RUN_DIR",
            value=text,
            reason="supervisord.conf cannot contain this path",
            allowed="a path without control characters and without ';' or '#' after a space",
            example="BERTH_RUN_DIR=/run/berth",
        )
        raise ConfigError([problem])
    return text.replace("%", "%%")
