"""`berth bench`."""

import argparse
import dataclasses
from collections.abc import Mapping

from berth.cli.arguments import Commands
from berth.cli.run_dir import run_dir_of


def bench(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Which engine serves a model best here."""
    from berth.bench import main
    from berth.plan import read_plan

    run_dir = options.run_dir or run_dir_of(environ)
    if options.model == "list":
        return main.listing(read_plan(run_dir).paths.data_dir, as_json=options.json)
    if options.model == "show":
        data_dir = read_plan(run_dir).paths.data_dir
        return main.shown(data_dir, options.id, as_json=options.json, html=options.html)
    if options.model == "order":
        return main.ordered(run_dir)
    others = ("engines", "as_json", "operation")
    names = [one.name for one in dataclasses.fields(main.Options) if one.name not in others]
    engines = tuple(filter(None, options.engines.split(",")))
    given = {name: getattr(options, name) for name in names}
    return main.bench(run_dir, main.Options(**given, engines=engines, as_json=options.json))


def add_bench(commands: Commands, json: argparse.ArgumentParser) -> None:
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
    add("--windows", type=_count, metavar="N", help="of each load and start (5)")
    add("--requests", type=_count, metavar="N", help="of each window, at least (100)")
    add("--seconds", type=_positive, metavar="S", help="of each window, at least (20, 60 of a Poisson load)")
    add("--rate", type=_positive, metavar="N", help="only at so many requests a second")
    add("--concurrency", type=_count, metavar="N", help="only at so many requests at a time")
    add("--seed", type=int, default=1, metavar="N", help="of prompts and arrivals (1)")
    add("--max-connections", type=_count, metavar="N", help="limit the client, to see what that does")
    add("--reuse-prompts", action="store_true", help="the same ones in each window, to see what a warm cache does")
    add("--gpu-hour-cost", type=_positive, metavar="N", help="of one GPU, to show the cost of tokens")
    add("--run-dir", default="", help=argparse.SUPPRESS)  # of `order`, which control starts
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
