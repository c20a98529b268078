"""The command `berth`: arguments and exit codes. The work is done elsewhere, and imported only when it is needed."""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from berth import __version__
from berth.errors import BerthError

if TYPE_CHECKING:
    from berth.migration import Options
    from berth.operations import AdapterChange

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


def run_program(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """`berth boot`, and the programs that supervisord starts."""
    match options.command:
        case "boot":
            from berth.boot.main import boot

            return boot(environ)
        case "exec":
            from berth.boot.engine_exec import exec_replica

            return exec_replica(options.run_dir, options.replica)
        case "control":
            from berth.control.main import serve as control

            return control(options.run_dir)
        case "tracer":
            from berth.tracer.main import serve as tracer

            return tracer(options.run_dir)
        case _:
            from berth.router.main import serve as router

            return router(options.run_dir)


def inspect(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Reports about the configuration and the machine. Starts nothing."""
    code = 0
    match options.command:
        case "env":
            from berth.boot.config.reference import env_text, markdown_table

            text = (markdown_table() if options.markdown else env_text()).removesuffix("\n")
        case "config":
            from berth.boot.config.reference import config_text
            from berth.boot.main import plan_from

            text = config_text(environ, lambda: plan_from(environ))
        case "doctor":
            from berth.boot.doctor import report

            text, code = report(environ, as_json=options.json)
        case _:
            from berth.boot.main import plan_from
            from berth.boot.planner.table import plan_table

            plan = plan_from(environ)
            text = plan.to_json().decode() if options.json else plan_table(plan)
    print(text)
    return code


def transfer(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Downloads, exports and imports model files."""
    match options.command:
        case "fetch":
            from berth.boot.checkpoints.fetch import fetch

            return fetch(environ, options.models)
        case "export":
            from berth.boot.checkpoints.export import export

            return export(environ, options.models, sys.stdout.buffer)
        case _:
            from berth.boot.checkpoints.import_ import import_

            return import_(environ, sys.stdin.buffer)


def operate(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Commands for a running Berth."""
    from berth.boot.config import checkout, settings

    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    if options.command == "logs":
        from berth.control.logs.engine_logs import show
        from berth.plan import RunPaths

        paths = RunPaths(run_dir=run_dir, data_dir="")
        return show(paths, options.replica, lines=options.lines, follow=options.follow)
    if options.command == "connect":
        from berth.boot.connect import snippet
        from berth.plan import read_plan

        print(snippet(read_plan(run_dir), options.client, model=options.model, url=options.url, key=options.key))
        return 0
    if options.command == "top":
        from berth.top.main import top

        return top(run_dir, options.url, environ, once=options.once, as_json=options.json)
    from berth.control.status import status

    colour = sys.stdout.isatty() and not environ.get("NO_COLOR")
    text, code = status(run_dir, as_json=options.json, colour=colour)
    print(text)
    return code


def change(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Operations of a running Berth."""
    from berth.boot.config import checkout, settings
    from berth.control.operations import commands
    from berth.operations import Action, Change

    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    match options.command:
        case "operations":
            return commands.operations(run_dir, options.id, as_json=options.json)
        case "cancel":
            return commands.cancel(run_dir, options.id, as_json=options.json)
        case "adapters":
            return commands.adapters(run_dir, adapter_change(options), as_json=options.json)
        case "events":
            return commands.events(run_dir, follow=options.follow, as_json=options.json)
        case _:
            requested = Change(
                action=Action.MIGRATE if options.command == "rollback" else Action(options.command),
                model=options.model,
                drain_s=options.drain,
                count=getattr(options, "count", None),
                migrate=migrate_options(options),
                by="the command line",
                dry_run=options.dry_run,
            )
            return commands.change(run_dir, requested, wait_s=options.wait, as_json=options.json)


def report(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What a person needs who is asked for help."""
    from berth.report.archive import report as write

    return write(environ, options.output or ("" if sys.stdout.isatty() else "-"))


def capture(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Requests and responses as they went over the wire."""
    from berth.boot.config import checkout, settings
    from berth.capture import Capture, CaptureAction, CaptureRequest
    from berth.control.operations import capture_commands

    actions = {"on": CaptureAction.START, "off": CaptureAction.END}
    wanted = CaptureRequest(action=actions.get(options.do) or CaptureAction(options.do), id=getattr(options, "id", ""))
    if options.do == "on":
        only, slow_s = options.only
        limits = Capture(
            ends=time.time() + options.for_s,
            model=options.model,
            key=options.key,
            only=only,
            slow_s=slow_s,
            most=options.most,
        )
        wanted = dataclasses.replace(wanted, capture=limits)
    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    return capture_commands.run(run_dir, wanted, form=getattr(options, "form", "text"))


def migrations(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Of a running Berth: all of them, or one."""
    from berth.boot.config import checkout, settings
    from berth.control.operations import commands

    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    if options.command == "migrations":
        return commands.migrations(run_dir, as_json=options.json)
    return commands.migration(run_dir, options.id, options.do or "", as_json=options.json)


def migrate_options(options: argparse.Namespace) -> "Options | None":
    """Of `berth migrate` and `berth rollback`."""
    from berth.migration import How, Options

    if options.command not in ("migrate", "rollback"):
        return None
    return Options(
        to=getattr(options, "to", ""),
        revision=getattr(options, "revision", 0),
        how=How(options.how),
        steps=options.steps,
        step_s=options.step_time,
        step_requests=options.step_requests,
        keep_s=options.keep,
        hold_s=options.hold,
        first_token_s=options.first_token,
        token_s=options.token,
    )


def percentages(text: str) -> tuple[float, ...]:
    return tuple(float(part.removesuffix("%")) for part in text.split(","))


def adapter_change(options: argparse.Namespace) -> "AdapterChange":
    """ConfigError for what is not a LoRA adapter: no engine gets to see it then."""
    from berth.boot.checkpoints.lora import from_folder
    from berth.boot.config.model_spec import AdapterSpec
    from berth.errors import ConfigError
    from berth.operations import AdapterChange

    if options.do == "add":
        folder = Path(options.path).resolve()
        try:
            adapter = from_folder(AdapterSpec(name=options.name, source=str(folder)), folder)
        except ConfigError as error:
            example = "berth adapters chat add support /data/adapters/support"
            problems = [dataclasses.replace(one, variable="PATH", example=example) for one in error.problems]
            raise ConfigError(problems) from error
        return AdapterChange(model=options.model, add=adapter)
    return AdapterChange(model=options.model, remove=options.name if options.do == "remove" else "")


CHANGES = {  # of a model
    "load": "load a model that was unloaded or put to sleep, or has failed",
    "unload": "finish a model's requests, and stop its engines",
    "sleep": "finish a model's requests, and release its GPU memory",
    "wake": "wake a model that was put to sleep",
    "restart": "restart the engines of a model, one after another",
    "scale": "load or unload replicas of a model, up to a number",
    "pin": "deny to unload a model, or to put it to sleep",
    "unpin": "allow it again",
}


def usage(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What clients used."""
    from berth import usage
    from berth.boot.config import checkout, settings
    from berth.plan import read_plan

    plan, now = read_plan(settings.run_dir(environ, defaults=checkout.defaults(environ))), time.time()
    rows = usage.summary(usage.current(plan, options.month or usage.month_of(now), now=now), options.by)
    print(usage.as_text(rows, options.form))
    return 0


def audit(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What was changed, and by whom."""
    from berth.boot.config import checkout, settings
    from berth.control.ledger.audit_report import report
    from berth.plan import read_plan

    plan = read_plan(settings.run_dir(environ, defaults=checkout.defaults(environ)))
    print(report(plan.paths.data_dir, options.lines, as_json=options.json))
    return 0


def revisions(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What served the models, and since when."""
    from berth.boot.config import checkout, settings
    from berth.control.ledger import revision_report
    from berth.plan import read_plan

    plan = read_plan(settings.run_dir(environ, defaults=checkout.defaults(environ)))
    if options.command == "diff":
        print(revision_report.diff(plan, options.model, options.numbers))
    else:
        print(revision_report.listing(plan, options.model, as_json=options.json))
    return 0


def key(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Keys of clients and of the operator."""
    from berth.boot.config import checkout, settings
    from berth.control.ledger import key_commands

    if options.what == "new":
        text = key_commands.new(options.name, as_variables=options.shell)
    elif options.what == "read":
        from berth.boot.api_keys import read_again

        text = read_again(options.run_dir)
    else:
        run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
        text = key_commands.admin(run_dir) if options.what == "admin" else key_commands.listing(run_dir)
    print(text)
    return 0


def route(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The rules of BERTH_ROUTES: those of the running Berth, else those of the environment."""
    from berth import processes
    from berth.boot.config import checkout, settings
    from berth.boot.main import plan_from
    from berth.errors import ApiError
    from berth.plan import RunPaths, read_keys, read_plan
    from berth.router.server import explain

    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    running = processes.read_record(processes.supervisor_record(RunPaths(run_dir=run_dir, data_dir="")))
    if running is not None and running.alive():
        plan, keys = read_plan(run_dir), read_keys(run_dir).api_keys
    else:
        plan, keys = plan_from(environ), settings.load(environ, defaults=checkout.defaults(environ)).api_keys
    if not options.explain:
        print(explain.listing(plan))
        return 0
    try:
        asked = explain.described(options.path, options.model, options.key, options.header, options.data)
        found = explain.explained(plan, keys, asked)
    except ApiError as error:
        sys.stderr.write(f"berth route: {error.message}\n")
        return 2
    print(explain.as_json(found) if options.json else explain.as_text(found))
    return 0


def bench(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Which engine serves a model best here."""
    from berth.bench import main
    from berth.boot.config import checkout, settings
    from berth.plan import read_plan

    run_dir = settings.run_dir(environ, defaults=checkout.defaults(environ))
    if options.model == "list":
        return main.listing(read_plan(run_dir).paths.data_dir, as_json=options.json)
    if options.model == "show":
        data_dir = read_plan(run_dir).paths.data_dir
        return main.shown(data_dir, options.id, as_json=options.json, html=options.html)
    names = [one.name for one in dataclasses.fields(main.Options) if one.name not in ("engines", "as_json")]
    engines = tuple(filter(None, options.engines.split(",")))
    given = {name: getattr(options, name) for name in names}
    return main.bench(run_dir, main.Options(**given, engines=engines, as_json=options.json))


PROGRAMS = {
    "control": "supervise the engines",
    "router": "serve the clients",
    "tracer": "send spans of requests to a collector",
}
COMMANDS: dict[str, Command] = {
    **dict.fromkeys(("boot", "exec", *PROGRAMS), run_program),
    **dict.fromkeys(("plan", "config", "env", "doctor"), inspect),
    **dict.fromkeys(("fetch", "export", "import"), transfer),
    **dict.fromkeys(("status", "top", "logs", "connect"), operate),
    **dict.fromkeys((*CHANGES, "reload", "adapters", "operations", "cancel", "events"), change),
    "bench": bench,
    **dict.fromkeys(("migrate", "rollback"), change),
    **dict.fromkeys(("migration", "migrations"), migrations),
    "key": key,
    "usage": usage,
    "audit": audit,
    "capture": capture,
    **dict.fromkeys(("revisions", "diff"), revisions),
    "report": report,
    "route": route,
}


def _add_changes(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", json: argparse.ArgumentParser
) -> None:
    waits = argparse.ArgumentParser(add_help=False)
    waits.add_argument("--wait", type=float, metavar="S", help="wait for the end of the operation, up to S seconds")
    changes = argparse.ArgumentParser(add_help=False, parents=[waits])
    changes.add_argument("--dry-run", action="store_true", help="only show what would change")
    changes.add_argument(
        "--drain", type=float, default=300.0, metavar="S", help="cut requests that run longer than S seconds (300)"
    )
    for name, text in CHANGES.items():
        command = commands.add_parser(name, help=text, parents=[changes, json])
        command.add_argument(
            "model", metavar="MODEL", help="a name or alias" + (", or a replica" * (name == "restart"))
        )
        if name == "scale":
            command.add_argument("count", type=int, metavar="N", help="replicas that are to be loaded")
    text = "replace the router's workers one by one, without losing a request"
    reload = commands.add_parser("reload", help=text, parents=[waits, json])
    reload.set_defaults(model="", drain=0.0, dry_run=False)
    adapters = commands.add_parser("adapters", help="list, add or remove LoRA adapters of a model", parents=[json])
    adapters.add_argument("model", metavar="MODEL", help="a name or alias")
    todo = adapters.add_subparsers(dest="do", metavar="add NAME PATH | remove NAME | list")
    add = todo.add_parser("add", help="load an adapter into the model's engines, now and after each start")
    add.add_argument("name", metavar="NAME", help="under which clients request it")
    add.add_argument("path", metavar="PATH", help="of its folder")
    todo.add_parser("remove", help="unload it").add_argument("name", metavar="NAME")
    todo.add_parser("list", help="show them (the default)")
    add_migrations(commands, changes, json)
    operations = commands.add_parser("operations", help="show the last operations, or one", parents=[json])
    operations.add_argument("id", nargs="?", default="", metavar="ID")
    cancel = commands.add_parser("cancel", help="cancel an operation that has not begun or drains", parents=[json])
    cancel.add_argument("id", metavar="ID")
    events = commands.add_parser("events", help="show the last changes of replicas and operations", parents=[json])
    events.add_argument("-f", "--follow", action="store_true", help="keep showing new ones")


def add_migrations(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    changes: argparse.ArgumentParser,
    json: argparse.ArgumentParser,
) -> None:
    text = "let another engine serve a model, step by step, without losing a request"
    migrate = commands.add_parser("migrate", help=text, parents=[changes, json])
    migrate.add_argument("model", metavar="MODEL", help="a name or alias")
    migrate.add_argument("--to", required=True, metavar="ENGINE", help="one of the model's engines, or a replica")
    rollback = commands.add_parser("rollback", help="migrate back to an earlier revision", parents=[changes, json])
    rollback.add_argument("model", metavar="MODEL", help="a name or alias")
    rollback.add_argument("--to", dest="revision", type=int, default=0, metavar="N", help="default: the one before")
    for command, steps, step_s, requests in ((migrate, "1,5,25,100", 300, 100), (rollback, "100", 0, 0)):
        command.add_argument(
            "--how", choices=("auto", "both", "swap"), default="auto", help="with room for both or not"
        )
        command.add_argument(
            "--steps", type=percentages, default=percentages(steps), metavar="P,...", help=f"percentages ({steps})"
        )
        for name, unit, default, text in (
            ("--step-time", "S", step_s, "a step lasts so long at least"),
            ("--keep", "S", 900, "the engine before is kept so long after the promotion"),
            ("--hold", "S", 300, "without room for both: requests may be queued so long"),
            ("--first-token", "S", 1, "a response whose first token takes longer is slow"),
            ("--token", "S", 0.05, "and one whose tokens take longer on average"),
        ):
            command.add_argument(name, type=float, default=default, metavar=unit, help=f"{text} ({default:g} s)")
        text = f"a step has so many requests at least; Berth makes those that are missing ({requests})"
        command.add_argument("--step-requests", type=int, default=requests, metavar="N", help=text)
    one = commands.add_parser("migration", help="show a migration with its numbers, or change it", parents=[json])
    one.add_argument("id", metavar="ID")
    one.add_argument("do", nargs="?", choices=("pause", "resume", "promote", "abort"))
    commands.add_parser("migrations", help="show the last migrations", parents=[json])


def add_revisions(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", json: argparse.ArgumentParser
) -> None:
    listed = commands.add_parser("revisions", help="show what served a model, since when and why", parents=[json])
    listed.add_argument("model", nargs="?", default="", metavar="MODEL", help="a name or alias (default: all)")
    diff = commands.add_parser("diff", help="show what differs between two revisions of a model")
    diff.add_argument("model", metavar="MODEL", help="a name or alias")
    diff.add_argument("numbers", nargs="*", type=int, metavar="N", help="two revisions, or one and the newest")


def _add_keys(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run_dir: argparse.ArgumentParser,
    json: argparse.ArgumentParser,
) -> None:
    text = "make a key for a client or for the operator, or list the keys of clients"
    kinds = commands.add_parser("key", help=text).add_subparsers(dest="what", required=True, metavar="WHAT")
    new = kinds.add_parser("new", help="print a new key, and the line to add to BERTH_API_KEYS")
    new.add_argument("name", metavar="NAME", help="of the client")
    new.add_argument("--shell", action="store_true", help="print the key and its digest as shell variables")
    kinds.add_parser("list", help="show the names and limits of the keys")
    kinds.add_parser("admin", help="print a key for /admin that is valid for 12 hours")
    text = "show what clients used, by key and model"
    usage = commands.add_parser("usage", help=text)
    usage.add_argument("--by", choices=("key", "model", "day"), default="", help="only by one of them")
    usage.add_argument("--month", metavar="YYYY-MM", help="another month than this one")
    forms = usage.add_mutually_exclusive_group()
    forms.add_argument("--csv", dest="form", action="store_const", const="csv", default="", help="print CSV")
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON")
    kinds.add_parser("read", help="read the files of the keys again (started by control)", parents=[run_dir])
    changes = commands.add_parser("audit", help="show what was changed, and by whom", parents=[json])
    changes.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="show the last N (default: 50)")


def _add_capture(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from berth.boot.config.parsers import duration
    from berth.capture import MOST_REQUESTS, USUAL_S, parse_only

    capture = commands.add_parser("capture", help="keep requests and responses for a while, to look at them")
    todo = capture.add_subparsers(dest="do", required=True, metavar="WHAT")
    on = todo.add_parser("on", help="start")
    on.add_argument("--for", dest="for_s", type=duration, default=USUAL_S, metavar="TIME", help="10m; at most 1h")
    on.add_argument("--model", default="", help="only of this model")
    on.add_argument("--key", default="", metavar="NAME", help="only of this client")
    text = "all (the default), errors, or slow:5s"
    on.add_argument("--only", type=parse_only, default="all", metavar="WHICH", help=text)
    text = f"end after N requests (default and most: {MOST_REQUESTS})"
    on.add_argument("--max", dest="most", type=int, default=MOST_REQUESTS, metavar="N", help=text)
    todo.add_parser("off", help="end; what was captured is kept for an hour")
    todo.add_parser("clear", help="end, and forget what was captured")
    listing = todo.add_parser("list", help="show what was captured")
    listing.add_argument("--json", dest="form", action="store_const", const="json", default="text", help="print JSON")
    show = todo.add_parser("show", help="show one request")
    show.add_argument("id", metavar="ID", help="its x-request-id")
    show.add_argument("--as", dest="form", choices=("text", "curl", "json"), default="text", help="how to print it")


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", json: argparse.ArgumentParser) -> None:
    text = "measure which engine serves a model best here"
    bench = commands.add_parser("bench", help=text, parents=[json])
    add = bench.add_argument
    add("model", metavar="MODEL", help="a name or alias; `list` shows the results so far, `show ID` one of them")
    add("id", nargs="?", default="", metavar="ID", help="of a result, after `show`")
    add("--engines", default="", metavar="A,B", help="only these, the first one is what others are compared with")
    add("--workload", default="chat", help="chat (default), rag, agent, batch, 1024/256, recorded, or file:PATH")
    add("--slo", default="", help="ttft=1s,tpot=50ms@p95 (default)")
    add("--quick", action="store_true", help="minutes in place of an hour; chooses nothing for `engines: auto`")
    add("--rounds", type=_count, metavar="N", help="starts of each engine (2)")
    add("--windows", type=_count, metavar="N", help="of each load and start (3)")
    add("--requests", type=_count, metavar="N", help="of each window, at least (100)")
    add("--seconds", type=_positive, metavar="S", help="of each window, at least (20, 60 of a Poisson load)")
    add("--rate", type=_positive, metavar="N", help="only at so many requests a second")
    add("--concurrency", type=_count, metavar="N", help="only at so many requests at a time")
    add("--seed", type=int, default=1, metavar="N", help="of prompts and arrivals (1)")
    add("--max-connections", type=_count, metavar="N", help="limit the client, to see what that does")
    add("--reuse-prompts", action="store_true", help="the same ones in each window, to see what a warm cache does")
    add("--gpu-hour-cost", type=_positive, metavar="N", help="of one GPU, to show the cost of tokens")
    add("--html", default="", metavar="FILE", help="also write the report there")
    add("--yes", action="store_true", help="although clients have used the model within the last minutes")


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return number


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return number


def add_views(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", json: argparse.ArgumentParser) -> None:
    """What shows something of a running Berth."""
    commands.add_parser("status", help="show the status of all replicas, and errors", parents=[json])
    top = commands.add_parser("top", help="show traffic, replicas and requests, live", parents=[json])
    top.add_argument("--once", action="store_true", help="print one frame, as where the output is no terminal")
    text = "of another machine's Berth; its key is read from BERTH_ADMIN_KEY or OPENAI_API_KEY"
    top.add_argument("--url", default="", metavar="URL", help=text)
    logs = commands.add_parser("logs", help="show the logs of the engines")
    logs.add_argument("replica", nargs="?", help="a replica (default: all)")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="show the last N lines (default: 100)")
    logs.add_argument("-f", "--follow", action="store_true", help="keep showing new lines")
    connect = commands.add_parser("connect", help="print what to write into a client, or the list of clients")
    connect.add_argument("client", nargs="?", default="", metavar="CLIENT", help="one of the list")
    connect.add_argument("--model", default="", help="a name or alias (default: the first that fits)")
    connect.add_argument("--url", default="", help="how the client reaches this Berth (default: on this host)")
    connect.add_argument("--key", default="", help="one of BERTH_API_KEYS")


def _add_route(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", json: argparse.ArgumentParser) -> None:
    route = commands.add_parser("route", help="show the rules of BERTH_ROUTES, or which decides", parents=[json])
    route.add_argument("--explain", action="store_true", help="which rule decides about a request, and why not others")
    route.add_argument("--path", default="/v1/chat/completions", help="of the request (default: /v1/chat/completions)")
    route.add_argument("--model", help="the model that it names (default: as in its body)")
    route.add_argument("--key", default="", metavar="NAME", help="the name of its API key (default: none)")
    text = "one of its headers, as 'NAME: VALUE'; may be repeated"
    route.add_argument("-H", "--header", action="append", default=[], help=text)
    route.add_argument("-d", "--data", default="", metavar="JSON", help="its body, or @FILE (default: a short prompt)")


def parser() -> argparse.ArgumentParser:
    berth = argparse.ArgumentParser(
        prog="berth",
        description="One GPU server, one dependable model endpoint. Environment variables configure everything.",
        epilog="Exit codes: 0 success, 1 failed, 2 wrong command line, 3 timed out, 4 denied, "
        "5 undecided and 6 invalid (`berth bench`), 65 damaged archive, "
        "69 port in use or machine not ready, 70 internal error, 73 directory not writable, 78 invalid configuration.",
    )
    berth.add_argument("--version", action="version", version=f"berth {__version__}")
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
    commands.add_parser("fetch", help="download the models of BERTH_MODELS in advance", parents=[models])
    commands.add_parser("export", help="write models and compile caches as tar to stdout", parents=[models])
    commands.add_parser("import", help="read the output of `berth export` from stdin")
    for add in (add_views, _add_changes, _add_bench, add_revisions, _add_route):
        add(commands, json)
    _add_keys(commands, run_dir, json)
    _add_capture(commands)
    commands.add_parser("sim", help="run the simulated engine (see `berth sim --help`)", add_help=False)
    for name, text in PROGRAMS.items():
        commands.add_parser(name, help=f"{text} (started by supervisord)", parents=[run_dir])
    engine = commands.add_parser("exec", help="become an engine (started by supervisord)", parents=[run_dir])
    engine.add_argument("replica")
    return berth
