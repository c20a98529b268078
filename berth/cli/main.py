"""Chooses the subcommand, and turns errors into exit codes."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from berth.build_form import VERSION_AND_FORM
from berth.cli.benchmark import add_bench, bench
from berth.cli.change_arguments import CHANGES, add_changes
from berth.cli.changes import change, migrations
from berth.cli.programs import PROGRAMS, inspect, run_program, transfer
from berth.cli.shadow import add_shadow, shadow
from berth.cli.view_arguments import add_capture, add_keys, add_revisions, add_route, add_views
from berth.cli.views import audit, capture, key, operate, report, revisions, route, usage
from berth.errors import BerthError

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one subcommand and ends the process with its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["sim"]:  # has its own options
        from berth.sim.main import main as sim

        sys.exit(sim(arguments[1:]))
    options = parser().parse_args(arguments or ["boot"])
    try:
        sys.exit(COMMANDS[options.command](options, os.environ))
    except BerthError as error:
        from berth.log import fatal_lines

        # The error of a failed boot is part of the container's log, which may have to be JSON.
        as_json = options.command == "boot" and os.environ.get("BERTH_LOG_FORMAT") == "json"
        text = fatal_lines(options.command, str(error), error.exit_code, "json" if as_json else "text", time.time())
        sys.stderr.write(text)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `berth logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


COMMANDS: dict[str, Command] = {
    **dict.fromkeys(("boot", "exec", *PROGRAMS), run_program),
    **dict.fromkeys(("plan", "config", "env", "doctor"), inspect),
    **dict.fromkeys(("fetch", "export", "import"), transfer),
    **dict.fromkeys(("status", "top", "logs", "connect"), operate),
    **dict.fromkeys((*CHANGES, "reload", "adapters", "operations", "cancel", "events"), change),
    "bench": bench,
    **dict.fromkeys(("migrate", "rollback"), change),
    **dict.fromkeys(("migration", "migrations"), migrations),
    "shadow": shadow,
    "key": key,
    "usage": usage,
    "audit": audit,
    "capture": capture,
    **dict.fromkeys(("revisions", "diff"), revisions),
    "report": report,
    "route": route,
}


def parser() -> argparse.ArgumentParser:
    berth = argparse.ArgumentParser(
        prog="berth",
        description="One GPU server, one dependable model endpoint. Environment variables configure everything.",
        epilog="Exit codes: 0 success, 1 failed, 2 wrong command line, 3 timed out, 4 denied, "
        "5 undecided and 6 invalid (`berth bench`), 65 damaged archive, "
        "69 port in use or machine not ready, 70 internal error, 73 directory not writable, 78 invalid configuration.",
    )
    berth.add_argument("--version", action="version", version=f"berth {VERSION_AND_FORM}")
    commands = berth.add_subparsers(dest="command", required=True, metavar="COMMAND")
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="print JSON")
    run_dir = argparse.ArgumentParser(add_help=False)
    run_dir.add_argument("--run-dir", required=True)
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument("models", nargs="*", metavar="MODEL", help="a name or source (default: all)")

    commands.add_parser("boot", help="start the server (the default command)")
    commands.add_parser("plan", help="show what would be started where, and why", parents=[json])
    commands.add_parser("config", help="show every setting, its origin and its effect")
    env = commands.add_parser("env", help="describe all environment variables")
    env.add_argument("--markdown", action="store_true", help="print the table of docs/configuration.md")
    commands.add_parser("doctor", help="check driver, memory, disk, ports, engines and files", parents=[json])
    report = commands.add_parser("report", help="write an archive for support: what runs and why, logs, no secrets")
    text = "the file (default: standard output, or a file in this folder where that is a terminal)"
    report.add_argument("-o", "--output", default="", metavar="FILE", help=text)
    report.add_argument("--run-dir", default="", metavar="DIR", help="of the Berth that asks (for its own programs)")
    commands.add_parser("fetch", help="download the models of BERTH_MODELS in advance", parents=[models])
    commands.add_parser("export", help="write models and compile caches as tar to stdout", parents=[models])
    commands.add_parser("import", help="read the output of `berth export` from stdin")
    for add in (add_views, add_changes, add_shadow, add_bench, add_revisions, add_route):
        add(commands, json)
    add_keys(commands, run_dir, json)
    add_capture(commands)
    commands.add_parser("sim", help="run the simulated engine (see `berth sim --help`)", add_help=False)
    for name, text in PROGRAMS.items():
        commands.add_parser(name, help=f"{text} (started by supervisord)", parents=[run_dir])
    engine = commands.add_parser("exec", help="become an engine (started by supervisord)", parents=[run_dir])
    engine.add_argument("replica")
    return berth
