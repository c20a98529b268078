"""`berth shadow`: a share of a model's requests is sent to another engine too, and the answers are compared."""

import argparse
import sys
from collections.abc import Mapping

from berth.cli.arguments import Commands
from berth.cli.change_arguments import share
from berth.cli.run_dir import run_dir_of

WRONG = 2  # a command line, as argparse has it


def add_shadow(commands: Commands, json: argparse.ArgumentParser) -> None:
    from berth.boot.config.parsers import duration
    from berth.ipc.shadow import FOR_S, SHARE

    text = "send a share of a model's requests to another engine too, and compare the answers; or show what was found"
    shadow = commands.add_parser("shadow", help=text, parents=[json])
    shadow.add_argument("model", nargs="?", default="", metavar="MODEL", help="a name or alias (default: all shadows)")
    do = shadow.add_mutually_exclusive_group()
    do.add_argument("--to", default="", metavar="ENGINE", help="begin: one of the model's engines, or a replica")
    do.add_argument("--stop", action="store_true", help="end the one that is on")
    text = "of the conversations, such as 5%% (the default) or 0.05"
    shadow.add_argument("--share", type=share, default=SHARE, metavar="SHARE", help=text)
    shadow.add_argument("--for", dest="for_s", type=duration, default=FOR_S, metavar="TIME", help="10m (the default)")
    shadow.add_argument("--wait", type=float, metavar="S", help="wait for the end, up to S seconds")
    shadow.add_argument("--dry-run", action="store_true", help="only show what would change")


def shadow(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from berth.control.operations import commands, shadow_commands
    from berth.ipc.operations import Action, Change
    from berth.ipc.shadow import ShadowOptions

    run_dir = run_dir_of(environ)
    if (options.to or options.stop) and not options.model:
        sys.stderr.write("berth: name the model: berth shadow chat --to sglang\n")
        return WRONG
    if options.stop:
        return shadow_commands.stop(run_dir, options.model, wait_s=options.wait, as_json=options.json)
    if not options.to:
        return shadow_commands.show_all(run_dir, options.model, as_json=options.json)
    requested = Change(
        action=Action.SHADOW,
        model=options.model,
        shadow=ShadowOptions(to=options.to, share=options.share, for_s=options.for_s),
        by="the command line",
        dry_run=options.dry_run,
    )
    return commands.change(run_dir, requested, wait_s=options.wait, as_json=options.json)
