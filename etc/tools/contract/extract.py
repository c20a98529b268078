"""Makes the snapshot of one version of an engine from the real package.

In a throw-away environment the engine's own parser is made and written down, and asked about every command line of
Berth's; the source of the engine, and of the packages that it uses, is searched for every variable. TensorRT-LLM cannot
be imported without CUDA: its table is kept by hand, and only the packages beside it are searched.
"""

import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from berth.plan import Launch
from etc.tools.contract import variables
from etc.tools.contract.check import EXCUSED, Written, written
from etc.tools.contract.environment import Wanted, environment, packages
from etc.tools.contract.locks import ROOT
from etc.tools.contract.table import Snapshot, by_name, option_from
from etc.tools.contract.targets import SHARED
from etc.tools.setup.progress import SetupError, say

TIMEOUT_S = 600
# The engine must find neither the user's settings nor anything to write to.
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
Places = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    snapshot: Snapshot
    refused: tuple[str, ...]  # what the engine's own parser said about our command lines


def extract(wanted: Wanted, by_hand: Snapshot | None, *, keep: bool) -> Extraction:
    """`by_hand`: the snapshot that there is of an engine that cannot be imported. SetupError for what goes wrong."""
    if wanted.target.module:
        return from_the_package(wanted, keep=keep)
    if by_hand is None:
        raise SetupError(
            f"{wanted.title} cannot be imported without CUDA: its table is kept by hand. Copy the snapshot of the "
            "version before it, correct version, options and keys from the new one's source, then run this again"
        )
    with environment(wanted, keep=keep):
        places = search(wanted, written(wanted.target))
    return Extraction(snapshot=replace(by_hand, variables=beside(by_hand.variables, places)), refused=())


def from_the_package(wanted: Wanted, *, keep: bool) -> Extraction:
    all_written = written(wanted.target)
    with environment(wanted, keep=keep):
        answer = ask(wanted, all_written)
        places = search(wanted, all_written)
    snapshot = Snapshot(
        engine=wanted.target.name,
        version=wanted.version,
        origin=f"the parser of {wanted.title}, made with torch {wanted.torch} for the CPU",
        options=tuple(by_name(option_from(document) for document in answer["options"])),
        variables=places,
    )
    counts = Counter(text for text in answer["verdicts"] if text)
    total = len(answer["verdicts"])
    refused = tuple(f"{text} ({count} of {total} command lines)" for text, count in counts.items())
    return Extraction(snapshot=snapshot, refused=refused)


def beside(by_hand: Mapping[str, Places], places: Mapping[str, Places]) -> dict[str, Places]:
    """What was found now, and what somebody found in the engine's own source, which cannot be had here."""
    return {name: found or by_hand.get(name, ()) for name, found in places.items()}


def ask(wanted: Wanted, all_written: Written) -> dict[str, Any]:
    """The engine's own options, and its verdict on each command line."""
    say(f"{wanted.title}: making its parser, and showing it {len(all_written.launches)} command lines ...")
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder, "questions.json"), Path(folder, "answers.json")
        lines = [real_command_line(launch, Path(folder)) for _, launch in all_written.launches]
        questions.write_text(json.dumps(lines), encoding="utf-8")
        module, *arguments = wanted.target.module.split()
        command = [
            str(wanted.python),
            "-m",
            f"etc.tools.contract.inside.{module}",
            *arguments,
            str(questions),
            str(answers),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(folder),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0 or not answers.exists():
            raise SetupError(
                f"the parser of {wanted.title} could not be made; its last words:\n"
                f"{tail(done.stderr)}\nIf a package is missing, see `without` in etc/tools/contract/targets.py; if "
                f"torch "
                f"{wanted.torch} is too old, name another: TORCH=..."
            )
        answer: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
        return answer


def real_command_line(launch: Launch, folder: Path) -> list[str]:
    """What follows `serve`, with configuration files that are there: Berth's with a key, a user's empty."""
    words = list(launch.argv[2:])
    for place in (number for number, word in enumerate(words) if number and words[number - 1] == "--config"):
        text = launch.key_files.get(words[place], "").format(key="of-the-replica")
        file = folder / Path(words[place]).name
        file.write_text(text, encoding="utf-8")
        words[place] = str(file)
    return words


def clean_environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"HOME": home, "TMPDIR": home, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def search(wanted: Wanted, all_written: Written) -> dict[str, Places]:
    """In the engine, in the packages that it uses, and in those that are only read."""
    names = all_written.variables - EXCUSED.keys()
    say(f"{wanted.title}: looking for {len(names)} variables in the source ...")
    searched = (wanted.target.package, *SHARED)
    files = [*variables.installed(packages(wanted), searched), *variables.packed(wanted.downloads, searched)]
    return variables.occurrences(names, files)
