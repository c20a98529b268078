"""The benchmark: `python -m etc.tools.rivals.main`, or `make bench`. README.md in this folder says how to read it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from etc.tools.rivals import endurance, loads, plot, profiling, report, scale, translation
from etc.tools.rivals.compare import Contest
from etc.tools.rivals.document import document
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.install import make_home
from etc.tools.rivals.routers import ROUTERS
from etc.tools.rivals.saturation import saturate

MILLION = 1_000_000


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="every router is asked in each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each load (default %(default)s)")
    parser.add_argument("--routers", type=_some_of(ROUTERS), default=list(ROUTERS), help=f"of {','.join(ROUTERS)}")
    parser.add_argument("--loads", type=_some_of(loads.LOADS), default=list(loads.LOADS), help=",".join(loads.LOADS))
    parser.add_argument("--no-saturation", action="store_true", help="without one and two workers at full load")
    parser.add_argument("--json", type=Path, help="where the results go (default .bench/results/TIME.json)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--profile", action="store_true", help="instead: where a worker of Berth spends its time")
    other.add_argument("--scale", action="store_true", help="instead: 10,000 idle streams and 2,000 active ones")
    other.add_argument("--translated", action="store_true", help="instead: streams in each client API, beside chat")
    other.add_argument(
        "--requests", type=int, nargs="?", const=MILLION, help="instead: so many requests (a million), and the memory"
    )
    return parser.parse_args(words)


def _some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        wanted = [name for name in text.split(",") if name]
        if unknown := set(wanted) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return wanted

    return names


def say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")


def results_folder() -> Path:
    folder = make_home() / "results"
    folder.mkdir(exist_ok=True)
    return folder


def run(arguments: argparse.Namespace, at: str) -> str:
    """What is to be printed. BenchError where it cannot be measured here."""
    if arguments.profile:
        folder = results_folder() / f"profile-{at}"
        return profiling.profile(arguments.loads, folder, seconds=arguments.seconds, say=say)
    if arguments.scale:
        return scale.text(scale.crowd(say))
    if arguments.translated:
        return translation.text(translation.translate(rounds=arguments.rounds, seconds=arguments.seconds, say=say))
    if arguments.requests:
        return endurance.text(endurance.endure(arguments.requests, say))
    return compare(arguments, at)


def compare(arguments: argparse.Namespace, at: str) -> str:
    contest = Contest(seconds=arguments.seconds, say=say)
    contest.run({name: ROUTERS[name] for name in arguments.routers}, arguments.loads, arguments.rounds)
    saturated = []
    if "berth" in arguments.routers and not arguments.no_saturation:
        saturated = saturate(rounds=arguments.rounds, seconds=arguments.seconds, say=say)
    text = report.text(contest.comparison, saturated, len(os.sched_getaffinity(0)))
    file = arguments.json or results_folder() / f"{at}.json"
    result = document(contest.comparison, saturated, seconds=arguments.seconds, text=text)
    file.write_text(json.dumps(result, indent=1) + "\n")
    picture = file.with_suffix(".svg")
    picture.write_text(plot.svg(plot.panels(contest.comparison), f"{at}, {arguments.rounds} rounds"))
    return f"{text}\n\nAll figures: {file}\nAs a picture: {picture}"


def main() -> None:
    try:
        text = run(parse(), time.strftime("%Y%m%d-%H%M%S"))
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    sys.stdout.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
