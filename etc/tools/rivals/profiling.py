"""Where a worker of Berth spends its time under each load, from up to three sides, each with a run of its own.

1. py-spy: the Python functions that hold the interpreter, as a table and as a flame picture. 2. perf, where it is
installed: the libraries, and the kernel. 3. strace, where it is installed: system calls per request or token (its times
say nothing, its counts do).
"""

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from etc.tools.rivals import accounting, install, loads, routers
from etc.tools.rivals.compare import Say
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.flame import picture
from etc.tools.rivals.measure import generator
from etc.tools.rivals.routers import Router
from etc.tools.rivals.table import table
from etc.tools.rivals.tally import Result

_RATE = 250  # samples a second
_SHOWN = 15
_ATTACH_S = 1.0  # for a profiler to find its way in
_PERF_LINE = re.compile(r"^\s*([\d.]+)%\s+(\S+)\s*$", re.MULTILINE)
_STRACE_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A function's part of all samples."""

    function: str
    own: float  # it was running itself
    total: float  # it, or what it had called


def shares(stacks: Iterable[str]) -> list[Share]:
    """From lines like `a;b;c 12`, the innermost function last. Those that ran most themselves come first."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        total.update(dict.fromkeys(frames, int(count)))
    samples = own.total()
    found = [Share(function=name, own=own[name] / samples, total=total[name] / samples) for name in total]
    return sorted(found, key=lambda share: (-share.own, -share.total, share.function))


def libraries(report: str) -> dict[str, float]:
    """From perf's report by shared object: library -> its part of the time."""
    return {name: float(percent) / 100 for percent, name in _PERF_LINE.findall(report)}


def calls(summary: str) -> dict[str, int]:
    """From strace's summary: system call -> how often."""
    return {name: int(count) for count, name in _STRACE_LINE.findall(summary) if name != "total"}


class Profiler:
    def __init__(self, router: Router, folder: Path, seconds: float) -> None:
        self._router = router
        self._worker = accounting.largest(router.roots)
        self._folder = folder
        self._seconds = seconds

    def text(self, load: str) -> str:
        """All that can be seen of it here; a side from which nothing can be seen says why."""
        parts = [loads.TITLES[load]]
        for side in (self._python, self._libraries, self._calls):
            try:
                parts.append(side(load))
            except BenchError as exc:
                parts.append(f"not seen: {exc}")
        return "\n\n".join(parts)

    def _python(self, load: str) -> str:
        file = self._folder / f"{load}.stacks"
        program = install.packages("py-spy") / "bin/py-spy"
        options = ["--rate", str(_RATE), "--format", "raw", "--function", "--gil", "--duration", f"{self._seconds:.0f}"]
        self._beside(load, [str(program), "record", "--pid", str(self._worker), *options, "--output", str(file)])
        stacks = file.read_text().splitlines()
        found, flames = shares(stacks), file.with_suffix(".svg")
        flames.write_text(picture(stacks, f"Berth, one worker, {loads.TITLES[load]}"))
        rows = [[one.function, f"{one.own:.1%}", f"{one.total:.1%}"] for one in found[:_SHOWN]]
        functions = table(["Python function", "itself", "with callees"], rows)
        return f"{functions}\n(flame picture: {flames}, all stacks: {file})"

    def _libraries(self, load: str) -> str:
        _need("perf")
        file = self._folder / f"{load}.perf"
        options = ["-F", "999", "-g", "-p", str(self._worker), "-o", str(file)]
        self._beside(load, ["perf", "record", *options, "--", "sleep", f"{self._seconds:.0f}"])
        command = ["perf", "report", "-i", str(file), "--no-children", "--stdio", "-g", "none", "--sort", "dso"]
        report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        rows = [[name, f"{part:.1%}"] for name, part in libraries(report).items() if part >= 0.005]
        return f"{table(['library', 'CPU'], rows)}\n(more: perf report -i {file})"

    def _calls(self, load: str) -> str:
        _need("strace")
        command = ["strace", "-f", "-c", "-p", str(self._worker)]
        with (
            generator(self._router, loads.LOADS[load](self._seconds)) as process,
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer,
        ):
            time.sleep(_ATTACH_S)
            result = Result.from_json(process.communicate("go\n")[0])
            tracer.send_signal(signal.SIGINT)
            summary = tracer.communicate()[1]
        counted = sorted(calls(summary).items(), key=lambda call: -call[1])
        if not counted:
            raise BenchError(f"strace failed: {summary.strip()[-300:]}")
        units = result.tokens or result.requests or 1
        rows = [[name, f"{count / units:.2f}"] for name, count in counted if count / units >= 0.01]
        return table(["system call", f"per {loads.UNITS[load]}"], rows)

    def _beside(self, load: str, command: Sequence[str]) -> None:
        """Runs a profiler while the load runs."""
        with generator(self._router, loads.LOADS[load](self._seconds + 2 * _ATTACH_S)) as process:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(_ATTACH_S)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            process.communicate()
        if done.returncode != 0:
            raise BenchError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise BenchError(f"there is no {program} on PATH")


def profile(names: Sequence[str], folder: Path, *, seconds: float, say: Say) -> str:
    """The loads of these names, on one worker."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        url, _ = stack.enter_context(routers.upstream())
        profiler = Profiler(stack.enter_context(routers.berth_with(url)), folder, seconds)
        parts = []
        for name in names:
            say(f"profiling: {loads.TITLES[name]} ...")
            parts.append(profiler.text(name))
    return "\n\n\n".join(parts)
