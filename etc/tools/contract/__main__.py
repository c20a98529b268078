"""The contract with the engines: `python -m etc.tools.contract` checks it, with an engine's name it extracts a version.

Both end with 1 when an engine would not take what Berth writes for it.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from etc.tools.contract.check import Verdict, Written, check, own_flags, used_elsewhere, written
from etc.tools.contract.difference import difference
from etc.tools.contract.environment import Wanted
from etc.tools.contract.extract import extract
from etc.tools.contract.locks import Locked, latest, locked, version_of
from etc.tools.contract.table import SNAPSHOTS, Snapshot, read_all, write
from etc.tools.contract.targets import BY_NAME
from etc.tools.setup.engines import TORCH
from etc.tools.setup.progress import SetupError


def check_all(snapshots: Sequence[Snapshot], locks: Iterable[Locked]) -> list[str]:
    """Prints what was held against what; the problems."""
    problems = [
        f"{lock.file.name} names {lock.target.name} {lock.version}, of which there is no snapshot: "
        f"make contract ENGINE={lock.target.name} VERSION={lock.version}"
        for lock in locks
        if (lock.target.name, lock.version) not in {(snapshot.engine, snapshot.version) for snapshot in snapshots}
    ]
    everything = {name: written(each) for name, each in BY_NAME.items()}
    for snapshot in snapshots:
        all_written = everything[snapshot.engine]
        excused = used_elsewhere(BY_NAME[snapshot.engine], snapshots, everything)
        verdict = check(BY_NAME[snapshot.engine], snapshot, all_written, excused)
        tell(snapshot, all_written, verdict)
        problems += [f"{snapshot.title}: {problem}" for problem in verdict.problems]
    return problems


def tell(snapshot: Snapshot, all_written: Written, verdict: Verdict) -> None:
    state = "does not hold" if verdict.problems else "holds"
    counts = {
        "command lines": len(all_written.launches),
        "variables": len(all_written.variables),
        "options": len(snapshot.options) + len(snapshot.yaml),
    }
    print(f"{snapshot.title}: {state}. {', '.join(f'{count} {what}' for what, count in counts.items())}")
    for warning in verdict.warnings:
        print(f"  {warning}")


def renew(wanted: Wanted, folder: Path, *, keep: bool) -> list[str]:
    """Writes the snapshot and prints what is new in it; the problems."""
    target, everybody = wanted.target, read_all(folder)
    snapshots = [snapshot for snapshot in everybody if snapshot.engine == target.name]
    same = next((snapshot for snapshot in snapshots if snapshot.version == wanted.version), None)
    extraction = extract(wanted, same, keep=keep)
    print(f"\nwrote {write(extraction.snapshot, folder)}")
    everything = {name: written(each) for name, each in BY_NAME.items()}
    all_written = everything[target.name]
    tell_difference(same or newest(snapshots), extraction.snapshot, own_flags(all_written))
    verdict = check(target, extraction.snapshot, all_written, used_elsewhere(target, everybody, everything))
    tell(extraction.snapshot, all_written, verdict)
    return [*verdict.problems, *(f"its own parser says: {text}" for text in extraction.refused)]


def tell_difference(old: Snapshot | None, new: Snapshot, used: Iterable[str]) -> None:
    if old is None:
        print(f"the first snapshot of {new.engine}: {len(new.options)} options")
        return
    lines = difference(old, new, frozenset(used))
    print(f"from {old.title} to {new.title}: {len(lines)} changes")
    for line in lines:
        print(f"  {line}")


def newest(snapshots: Sequence[Snapshot]) -> Snapshot | None:
    return max(
        snapshots, key=lambda snapshot: [int(part) for part in re.findall(r"\d+", snapshot.version)], default=None
    )


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make contract", description=__doc__)
    parser.add_argument("engine", nargs="?", choices=sorted(BY_NAME), help="extract this one; left out: check all")
    parser.add_argument("--version", help="the lock's if left out; `latest`: the newest of the package index")
    parser.add_argument("--torch", default=TORCH, help="the CPU build that the engine is imported with [%(default)s]")
    parser.add_argument("--keep", action="store_true", help="leave the environment in .engines/contract")
    return parser.parse_args(argv)


def run(given: argparse.Namespace, folder: Path) -> list[str]:
    if given.engine is None:
        return check_all(read_all(folder), locked())
    target = BY_NAME[given.engine]
    version = given.version or version_of(target)
    if version == "latest":
        version = latest(target.distribution)
        if version == version_of(target):
            print(f"{target.distribution} {version} is the latest release, and the locked one.")
            return []
    if version is None:
        raise SetupError(f"no lock names a version of {target.distribution}: name one with VERSION=...")
    return renew(Wanted(target=target, version=version, torch=given.torch), folder, keep=given.keep)


def main(argv: Sequence[str], folder: Path = SNAPSHOTS) -> int:
    try:
        problems = run(arguments(argv), folder)
    except SetupError as error:
        print(f"\ncontract: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(f"contract: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
