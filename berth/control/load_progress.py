"""How far a start is, as the engine's log tells it; pure.

The wording is that of vLLM 0.32, SGLang 0.5, TensorRT-LLM 1.2, huggingface_hub 1 and tqdm.
"""

import re
from dataclasses import dataclass, field, replace

from berth.state import Progress

# "Loading safetensors checkpoint shards:  25% Completed | 1/4 [", "model.safetensors:  12%|#1   | 482M/3.95G [00:00<"
_BAR = re.compile(r"(?P<what>[^|\r]*?):?\s*(?P<percent>\d{1,3})%(?:\||\s+Completed\s*\|)(?P<rest>[^\r]*)")
# "Downloading bytes:  ##   | 4.50GB", "Loading: 17it [00:03,  5.2it/s]": how far it is to the end, nobody knows
_BAR_WITHOUT_PERCENT = re.compile(r"^[^|]*: [\s#▏▎▍▌▋▊▉█]*\|\s*[\d.]+[kKMGT]?B\b|^.{0,200}?\d+it \[\d+:\d\d")
_COUNTED = re.compile(r"^\[(?P<done>\d+)/(?P<total>\d+)\] ")  # "[12/300] c++ -MMD ...": ninja
_CHANGING = re.compile(r"\([^)]*\)|\[[^\]]*\]|\b\d+it\b")  # "(bs=160 avail_mem=11.18 GB)"
# "482M/3.95G [", "4.50GB / 9.90GB,": bytes; "1/4 [" counts files
_AMOUNT = re.compile(
    r"(?P<done>[\d.]+)(?P<done_unit>[kKMGT]?)B?\s*/\s*(?P<total>[\d.]+)(?P<total_unit>[kKMGT]?)B?\s*(?:[\[,]|$)"
)
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

_LEVEL = re.compile(r"\b(DEBUG|INFO|WARN|ERROR|CRITICAL|FATAL)(?:ING)?\b|\[TRT-LLM\] \[([DIWEF])\]")
_LEVELS = {"D": "debug", "I": "info", "W": "warning", "E": "error", "C": "critical", "F": "critical"}
_HEAD = 100  # characters in which an engine names the level of its line

# The first that matches names the phase of a line. A bar of bytes that matches none is a file's download.
_PHASES = (
    (
        "load",
        re.compile(r"checkpoint shards|loading shards|oading weights|Load weight|Starting to load model|Prefetch"),
    ),
    ("download", re.compile(r"Fetching \d+ files|Downloading|Reconstruct")),
    ("graphs", re.compile(r"CUDA graph|cuda graph|Capturing batches|Graph capturing")),
    ("compile", re.compile(r"torch\.compile|Dynamo bytecode|Compiling|JIT ops|\bninja\b")),
    ("warm-up", re.compile(r"[Ww]arm(ing)?[ -]?up|Autotun|init engine|Application startup|Started server process")),
)
_SWITCHED_OFF = re.compile(
    r"[Dd]isabl(ed|ing)|non-default args"
)  # "Enforce eager set, disabling torch.compile, CUDAGraphs"
_LONGEST = 1000  # characters; a longer line is a dump of the configuration, which names everything
_MEASURED = {"load", "download"}  # phases that may take long and show that they move


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """Follows one start through its log."""

    progress: Progress = field(default_factory=lambda: Progress(phase="process"))
    files: dict[str, tuple[float, float]] = field(default_factory=dict)  # downloads: bytes done and in all, by name
    moves: int = 0  # grows with every sign that a download or a load goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A progress bar's line."""

    what: str
    percent: int


def bar(line: str) -> Bar | None:
    """None for a line that is not a state of a progress bar. `what` stays the same from state to state."""
    match = _bar(line)
    if match:
        return Bar(what=_name(match["what"]), percent=min(100, int(match["percent"])))
    if (counted := _COUNTED.match(line)) and int(counted["total"]) > 0:
        return Bar(what="build", percent=min(100, 100 * int(counted["done"]) // int(counted["total"])))
    if _BAR_WITHOUT_PERCENT.match(line[:_LONGEST]):
        return Bar(what=_name(line.partition("[")[0].partition(":")[0]), percent=0)
    return None


def _name(text: str) -> str:
    return " ".join(_CHANGING.sub(" ", text).split())


def level(line: str) -> str | None:
    """As the engine names it at the beginning of the line."""
    match = _LEVEL.search(line[:_HEAD])
    return _LEVELS[(match[1] or match[2])[0]] if match else None


def advance(tracker: Tracker, line: str) -> Tracker:
    """The tracker after one more line of the log."""
    match = _bar(line)
    phase = _phase(line) or ("download" if match and _amount(match) else None)
    if phase is None:
        return tracker
    files = _files(tracker.files, match) if phase == "download" and match else tracker.files
    percent = _percent(phase, match, files)
    if percent is None and phase == tracker.progress.phase:
        return tracker
    progress = Progress(phase=phase, percent=percent)
    moved = phase in _MEASURED and progress != tracker.progress
    return replace(tracker, progress=progress, files=files, moves=tracker.moves + moved)


def _bar(line: str) -> re.Match[str] | None:
    return _BAR.match(line[:_LONGEST]) if "%" in line else None


def _phase(line: str) -> str | None:
    if len(line) > _LONGEST or _SWITCHED_OFF.search(line):
        return None
    return next((phase for phase, words in _PHASES if words.search(line)), None)


def _files(files: dict[str, tuple[float, float]], match: re.Match[str]) -> dict[str, tuple[float, float]]:
    amount = _amount(match)
    return {**files, match["what"].strip(): amount} if amount else files


def _amount(match: re.Match[str]) -> tuple[float, float] | None:
    """Bytes done and in all; None where the bar counts something else."""
    found = _AMOUNT.search(match["rest"])
    if not found or not (found["done_unit"] or found["total_unit"]):
        return None
    try:
        return float(found["done"]) * _UNITS[found["done_unit"]], float(found["total"]) * _UNITS[found["total_unit"]]
    except ValueError:  # "1.2.3"
        return None


def _percent(phase: str, match: re.Match[str] | None, files: dict[str, tuple[float, float]]) -> float | None:
    """Bytes of all files together where they are known; else what the bar says."""
    if match is None:
        return None
    total = sum(total for _, total in files.values())
    if phase == "download" and total > 0:
        return round(min(100.0, 100 * sum(done for done, _ in files.values()) / total), 1)
    return float(min(100, int(match["percent"])))
