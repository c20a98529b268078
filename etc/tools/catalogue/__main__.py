"""The catalogue of models: `python -m etc.tools.catalogue` checks it, with `--recipes` it is renewed.

Recipes and cookbook are folders on this machine, clones of their repositories: this tool uses no network. What it
writes it also prints as a difference, for a person to read. It ends with 1 where an engine does not have a parser that
the catalogue names.
"""

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from berth.boot.catalogue.lookup import PACKAGED
from berth.boot.catalogue.schema import Document, Source, document
from etc.tools.catalogue import cookbook, recipes
from etc.tools.catalogue.build import composed, gathered, registry, stale_names, text, unsourced, without_stale_names
from etc.tools.contract.table import SNAPSHOTS, read_all

CORRECTIONS = Path(__file__).with_name("corrections.json")
URLS = {
    recipes.SOURCE: "https://github.com/vllm-project/recipes/tree/{commit}",
    cookbook.SOURCE: "https://github.com/sgl-project/sgl-cookbook/tree/{commit}",
}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make catalogue", description=__doc__)
    parser.add_argument("--recipes", type=Path, help="a clone of github.com/vllm-project/recipes")
    parser.add_argument("--recipes-state", default="", help="COMMIT@DATE, where the folder is no clone")
    parser.add_argument("--cookbook", type=Path, help="a clone of github.com/sgl-project/sgl-cookbook")
    parser.add_argument("--cookbook-state", default="", help="COMMIT@DATE, where the folder is no clone")
    parser.add_argument("--corrections", type=Path, default=CORRECTIONS)
    parser.add_argument("--catalogue", type=Path, default=PACKAGED, help="the file to check or to write")
    options = parser.parse_args(words)
    try:
        if options.recipes:
            renew(options)
        found = read(options.catalogue)
    except (OSError, ValueError) as error:
        print(f"catalogue: {error}", file=sys.stderr)
        return 1
    problems = [*stale_names(found.models, registry(read_all(SNAPSHOTS))), *unsourced(found)]
    variants = sum(len(model.variants) for model in found.models)
    print(f"{options.catalogue.name}: {len(found.models)} models with {variants} variants")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


def renew(options: argparse.Namespace) -> None:
    """Writes the catalogue, and prints what is new in it."""
    known = registry(read_all(SNAPSHOTS))
    states = {recipes.SOURCE: state(options.recipes, options.recipes_state, URLS[recipes.SOURCE])}
    parsers = {}
    if options.cookbook:
        states[cookbook.SOURCE] = state(options.cookbook, options.cookbook_state, URLS[cookbook.SOURCE])
        parsers = cookbook.parsers(options.cookbook)
    corrections = read(options.corrections)
    models = gathered(recipes.models(options.recipes), parsers)
    for problem in stale_names(models, known):
        print(f"left out: {problem}")
    cleaned = (without_stale_names(model, known) for model in models)
    before = options.catalogue.read_text(encoding="utf-8") if options.catalogue.exists() else ""
    after = text(composed(cleaned, corrections, states))
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after", n=2))
    options.catalogue.write_text(after, encoding="utf-8")


def read(path: Path) -> Document:
    """ValueError for a file that is no catalogue."""
    try:
        return document(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no catalogue: {error}") from error


def state(folder: Path, given: str, url: str) -> Source:
    """The commit and its date, of a clone's head unless they are given."""
    if not given:
        command = ["git", "-C", str(folder), "log", "-1", "--format=%H@%cs"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{folder} is no clone, and its state is not given: COMMIT@DATE")
        given = done.stdout.strip()
    commit, _, date = given.partition("@")
    return Source(url=url.format(commit=commit), date=date)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
