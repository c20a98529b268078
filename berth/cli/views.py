"""What shows something of a running Berth, or of what it has kept."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping

from berth.cli.run_dir import run_dir_of


def operate(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Commands for a running Berth."""
    run_dir = run_dir_of(environ)
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

    colour = sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    text, code = status(run_dir, as_json=options.json, colour=colour)
    print(text)
    return code


def usage(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What clients used."""
    from berth.plan import read_plan
    from berth.records import usage

    plan, now = read_plan(run_dir_of(environ)), time.time()
    rows = usage.summary(usage.current(plan, options.month or usage.month_of(now), now=now), options.by)
    print(usage.as_text(rows, options.form))
    return 0


def audit(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What was changed, and by whom."""
    from berth.control.ledger.audit_report import report
    from berth.plan import read_plan

    plan = read_plan(run_dir_of(environ))
    print(report(plan.paths.data_dir, options.lines, as_json=options.json))
    return 0


def revisions(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What served the models, and since when."""
    from berth.control.ledger import revision_report
    from berth.plan import read_plan

    plan = read_plan(run_dir_of(environ))
    if options.command == "diff":
        print(revision_report.diff(plan, options.model, options.numbers))
    else:
        print(revision_report.listing(plan, options.model, as_json=options.json))
    return 0


def key(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Keys of clients and of the operator."""
    from berth.control.ledger import key_commands

    if options.what == "new":
        text = key_commands.new(options.name, as_variables=options.shell)
    elif options.what == "read":
        from berth.boot.api_keys import read_again

        text = read_again(options.run_dir)
    else:
        run_dir = run_dir_of(environ)
        text = key_commands.admin(run_dir) if options.what == "admin" else key_commands.listing(run_dir)
    print(text)
    return 0


def report(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """What a person needs who is asked for help."""
    from berth.report.archive import report as write

    return write(environ, options.output or ("" if sys.stdout.isatty() else "-"), options.run_dir)


def capture(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Requests and responses as they went over the wire."""
    from berth.control.operations import capture_commands
    from berth.ipc.capture import Capture, CaptureAction, CaptureRequest

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
    run_dir = run_dir_of(environ)
    return capture_commands.run(run_dir, wanted, form=getattr(options, "form", "text"))


def route(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The rules of BERTH_ROUTES: those of the running Berth, else those of the environment."""
    from berth import processes
    from berth.boot.config import checkout, settings
    from berth.boot.main import plan_from
    from berth.errors import ApiError
    from berth.plan import RunPaths, read_keys, read_plan
    from berth.router.server import explain

    run_dir = run_dir_of(environ)
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
