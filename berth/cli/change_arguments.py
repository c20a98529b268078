"""Arguments of operations."""

import argparse

from berth.cli.arguments import Commands

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


def add_changes(commands: Commands, json: argparse.ArgumentParser) -> None:
    waits = argparse.ArgumentParser(add_help=False)
    waits.add_argument("--wait", type=float, metavar="S", help="wait for the end of the operation, up to S seconds")
    changes = argparse.ArgumentParser(add_help=False, parents=[waits])
    changes.add_argument("--dry-run", "--check", action="store_true", help="only show what would change")
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
    commands: Commands,
    changes: argparse.ArgumentParser,
    json: argparse.ArgumentParser,
) -> None:
    text = "let another engine, or the same one with other arguments, serve a model, without losing a request"
    migrate = commands.add_parser("migrate", help=text, parents=[changes, json])
    migrate.add_argument("model", metavar="MODEL", help="a name or alias")
    migrate.add_argument("--to", default="", metavar="ENGINE", help="one of the model's engines, or a replica")
    text = "what changes: args, args+, context, concurrency, kv_cache and other options of the model"
    migrate.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=text)
    migrate.add_argument("--source", default="", metavar="SOURCE", help="another checkpoint: a path, or ID[@REVISION]")
    text = "compare its answers to copies of so many of the conversations before it gets any, such as 10%% (none)"
    migrate.add_argument("--shadow", type=share, default=0.0, metavar="SHARE", help=text)
    rollback = commands.add_parser("rollback", help="migrate back to an earlier revision", parents=[changes, json])
    rollback.add_argument("model", metavar="MODEL", help="a name or alias")
    rollback.add_argument("--to", dest="revision", type=int, default=0, metavar="N", help="default: the one before")
    both = ((migrate, "1,5,25,100", 300, 60, 100), (rollback, "100", 0, 0, 0))
    for command, steps, step_s, trial_s, requests in both:
        text = "with room for both or not"
        command.add_argument("--how", choices=("auto", "both", "swap"), default="auto", help=text)
        default, text = percentages(steps), f"percentages ({steps})"
        command.add_argument("--steps", type=percentages, default=default, metavar="P,...", help=text)
        for name, unit, seconds, text in (
            ("--step-time", "S", step_s, "a step lasts so long at least"),
            ("--keep", "S", 900, "the engine before is kept so long after the promotion"),
            ("--hold", "S", 300, "without room for both: requests may be queued so long"),
            ("--trial", "S", trial_s, "without room for both: it answers all for so long before it is promoted"),
            ("--first-token", "S", 1, "a response whose first token takes longer is slow"),
            ("--token", "S", 0.05, "and one whose tokens take longer on average"),
        ):
            command.add_argument(name, type=float, default=seconds, metavar=unit, help=f"{text} ({seconds:g} s)")
        text = f"a step has so many requests at least; Berth makes those that are missing ({requests})"
        command.add_argument("--step-requests", type=int, default=requests, metavar="N", help=text)
    one = commands.add_parser("migration", help="show a migration with its numbers, or change it", parents=[json])
    one.add_argument("id", metavar="ID")
    one.add_argument("do", nargs="?", choices=("pause", "resume", "promote", "abort"))
    commands.add_parser("migrations", help="show the last migrations", parents=[json])


def share(text: str) -> float:
    """Of "5%" or "0.05"."""
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def percentages(text: str) -> tuple[float, ...]:
    return tuple(float(part.removesuffix("%")) for part in text.split(","))
