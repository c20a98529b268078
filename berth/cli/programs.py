"""The programs, and reports about configuration and machine that start none."""

import argparse
import signal
import sys
from collections.abc import Mapping

PROGRAMS = {
    "control": "supervise the engines",
    "router": "serve the clients",
    "tracer": "send spans of requests to a collector",
}


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
            # Until it has handlers: its imports take long, and ended there it would leave usage that is not written.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                from berth.control.main import serve as control

                return control(options.run_dir)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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
