"""The command `berth`: arguments and exit codes only; the work is done elsewhere."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from berth import __version__
from berth.errors import BerthError

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one subcommand and ends the process with its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["sim"]:  # a program of its own, with options of its own
        from berth.sim.main import main as sim

        sys.exit(sim(arguments[1:]))
    options = _parser().parse_args(arguments or ["boot"])
    try:
        sys.exit(COMMANDS[options.command](options, os.environ))
    except BerthError as error:
        _tell(options.command, error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `berth logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _tell(command: str, error: BerthError) -> None:
    """For people; as JSON where the log is to be JSON and nothing else: a start that fails is in the log too."""
    from berth.log import fatal_lines

    as_json = command == "boot" and os.environ.get("BERTH_LOG_FORMAT") == "json"
    sys.stderr.write(fatal_lines(command, str(error), error.exit_code, "json" if as_json else "text", time.time()))


def _boot(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.main import boot

    boot(environ)


def _plan(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.main import plan_from
    from berth.boot.planner.table import plan_table

    plan = plan_from(environ)
    print(plan.to_json().decode() if options.json else plan_table(plan))
    return 0


def _config(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.config.reference import config_text
    from berth.boot.main import plan_from

    print(config_text(environ, lambda: plan_from(environ)))
    return 0


def _env(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from berth.boot.config import reference

    print(reference.markdown_table() if options.markdown else reference.env_text(), end="")
    return 0


def _doctor(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.doctor import report

    text, code = report(environ, as_json=options.json)
    print(text)
    return code


def _fetch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.checkpoints.fetch import fetch

    return fetch(environ, options.models)


def _export(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.checkpoints.export import export

    return export(environ, options.models, sys.stdout.buffer)


def _import(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.boot.checkpoints.import_ import import_

    return import_(environ, sys.stdin.buffer)


def _exec(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from berth.boot.engine_exec import exec_replica

    exec_replica(options.run_dir, options.replica)


def _control(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from berth.control.main import serve

    return serve(options.run_dir)


def _router(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from berth.router.main import serve

    return serve(options.run_dir)


def _status(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.control.status import status

    text, code = status(_run_dir(environ), as_json=options.json)
    print(text)
    return code


def _logs(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.control.engine_logs import show
    from berth.plan import RunPaths

    paths = RunPaths(run_dir=_run_dir(environ), data_dir="")
    return show(paths, options.replica, lines=options.lines, follow=options.follow)


def _reload(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.control.status import reload

    print(reload(_run_dir(environ)))
    return 0


def _run_dir(environ: Mapping[str, str]) -> str:
    from berth.boot.config import checkout
    from berth.boot.config.settings import run_dir

    return run_dir(environ, defaults=checkout.defaults(environ))


COMMANDS: dict[str, Command] = {
    "boot": _boot,
    "plan": _plan,
    "config": _config,
    "env": _env,
    "doctor": _doctor,
    "fetch": _fetch,
    "export": _export,
    "import": _import,
    "status": _status,
    "logs": _logs,
    "reload": _reload,
    "exec": _exec,
    "control": _control,
    "router": _router,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="berth",
        description="One GPU server, one dependable model endpoint. Everything is configured by environment variables.",
        epilog="Exit codes: 0 fine, 2 wrong command line, 65 damaged archive, 69 port taken or machine not fit, "
        "70 a fault of Berth, 73 a directory cannot be written, 78 wrong configuration.",
    )
    parser.add_argument("--version", action="version", version=f"berth {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("boot", help="start the appliance (what `berth` alone does)")
    _json(commands.add_parser("plan", help="show what would be started where, and why; starts nothing"))
    commands.add_parser("config", help="show every setting, where it came from and what it became")
    env = commands.add_parser("env", help="document every variable")
    env.add_argument("--markdown", action="store_true", help="as the table of docs/configuration.md")
    _json(commands.add_parser("doctor", help="check this machine: driver, memory, disk, ports, engines, files"))
    _transport(commands)
    _json(commands.add_parser("status", help="what runs now, and why"))
    logs = commands.add_parser("logs", help="the engines' logs")
    logs.add_argument("replica", nargs="?", help="one replica; all without it")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="the last N lines (default 100)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    commands.add_parser("reload", help="replace the router's workers one by one; no request is lost")
    commands.add_parser("sim", help="the simulated engine (`berth sim --help`)", add_help=False)
    _programs(commands)
    return parser


def _transport(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What moves models."""
    for name, text in (
        ("fetch", "download ahead what BERTH_MODELS names"),
        ("export", "write models and compile caches to standard output, as a tar"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("models", nargs="*", metavar="MODEL", help="a name or source; all without it")
    commands.add_parser("import", help="read what `berth export` wrote from standard input")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _programs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What supervisord starts; not for people."""
    for name, text in (("control", "supervises the engines"), ("router", "serves the clients")):
        program = commands.add_parser(name, help=f"{text} (started by supervisord)")
        program.add_argument("--run-dir", required=True)
    engine = commands.add_parser("exec", help="becomes an engine of the plan (started by supervisord)")
    engine.add_argument("--run-dir", required=True)
    engine.add_argument("replica")
