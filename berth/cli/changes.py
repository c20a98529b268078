"""Operations of a running Berth."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from berth.cli.run_dir import run_dir_of

if TYPE_CHECKING:
    from berth.errors import ConfigError
    from berth.ipc.migration import Options
    from berth.ipc.operations import AdapterChange


def change(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Operations of a running Berth."""
    from berth.control.operations import commands
    from berth.ipc.operations import Action, Change

    run_dir = run_dir_of(environ)
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


def migrations(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Of a running Berth: all of them, or one."""
    from berth.control.operations import commands

    run_dir = run_dir_of(environ)
    if options.command == "migrations":
        return commands.migrations(run_dir, as_json=options.json)
    return commands.migration(run_dir, options.id, options.do or "", as_json=options.json)


def migrate_options(options: argparse.Namespace) -> "Options | None":
    """Of `berth migrate` and `berth rollback`."""
    from berth.ipc.migration import How, Options

    if options.command not in ("migrate", "rollback"):
        return None
    source = getattr(options, "source", "")
    if options.command == "migrate" and not (options.to or options.set or source):
        raise _without_target()
    return Options(
        to=getattr(options, "to", ""),
        revision=getattr(options, "revision", 0),
        set=tuple(getattr(options, "set", ())),
        source=str(Path(source).expanduser().absolute()) if source.startswith((".", "~")) else source,
        how=How(options.how),
        steps=options.steps,
        step_s=options.step_time,
        step_requests=options.step_requests,
        keep_s=options.keep,
        hold_s=options.hold,
        trial_s=options.trial,
        first_token_s=options.first_token,
        token_s=options.token,
        shadow=getattr(options, "shadow", 0.0),
    )


def _without_target() -> "ConfigError":
    from berth.errors import ConfigError, Problem

    problem = Problem(
        variable="--to, --set, --source",
        value="",
        reason="nothing is to change",
        allowed="an ENGINE, one or several FIELD=VALUE, a SOURCE, or some of them",
        example="berth migrate chat --set 'args=--max-num-seqs 64'",
    )
    return ConfigError([problem])


def adapter_change(options: argparse.Namespace) -> "AdapterChange":
    """ConfigError for what is not a LoRA adapter: no engine gets to see it then."""
    from berth.boot.checkpoints.lora import from_folder
    from berth.boot.config.model_spec import AdapterSpec
    from berth.errors import ConfigError
    from berth.ipc.operations import AdapterChange

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
