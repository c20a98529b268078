"""Machine instructions of a request in several forms of Berth: `make figures FIGURES="--cost A B --instructions"`.

Unlike CPU time they hardly depend on what else the machine does. Valgrind's callgrind counts them, which has to be
installed and takes a minute for each form; tokens are too slow under it. What the same loop does without Berth is
among them.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from etc.tools.figures.forms import MEASURES, REQUESTS, ask, started

COUNTED: Final = tuple(measure for measure in MEASURES if measure != "token")
Counts = Mapping[str, Mapping[str, float]]  # by measure and form
_TOTALS: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def instructions(forms: Sequence[str], *, python: str) -> Counts:
    """Of one request. RuntimeError without Valgrind, and where a form does not run."""
    if shutil.which("valgrind") is None:
        raise RuntimeError("there is no valgrind on PATH: install it (Debian, Ubuntu: apt-get install valgrind)")
    found: dict[str, dict[str, float]] = {measure: {} for measure in COUNTED}
    with tempfile.TemporaryDirectory(prefix="berth-callgrind-") as folder:
        for number, form in enumerate(forms):
            counts = Path(folder, str(number))
            tool = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}"]
            with started(form, [*tool, python]) as process:
                for measure in COUNTED:
                    ask(process, measure, form)
                    _tell(process.pid, "-i", "on")
                    ask(process, measure, form)
                    _tell(process.pid, "-i", "off")
                    _tell(process.pid, "-d", "part")
            for part, measure in enumerate(COUNTED, 1):  # what callgrind writes at each `-d`
                found[measure][form] = total(Path(f"{counts}.{part}").read_text()) / REQUESTS
    return found


def total(counts: str) -> int:
    """From a file of callgrind. RuntimeError for one that is not whole."""
    if (match := _TOTALS.search(counts)) is None:
        raise RuntimeError("callgrind has written no totals")
    return int(match[1])


def text(found: Counts) -> str:
    lines = [f"{'instructions':24}{'a request':>12}{'ratio':>10}"]
    for measure, by_form in found.items():
        base = next(iter(by_form.values()))
        lines += [measure, *(f"  {form:22}{count:12,.0f}{count / base:9.3f}x" for form, count in by_form.items())]
    return "\n".join(lines)


def _tell(pid: int, *words: str) -> None:
    subprocess.run(["callgrind_control", *words, str(pid)], check=True, capture_output=True)
