"""Progress of an engine's start, parsed from its log. Pure.

The patterns match the output of vLLM 0.33, SGLang 0.5, TensorRT-LLM 1.2, huggingface_hub 2.4 and tqdm.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from berth.control.logs.start_memory import StartMemory, after_line
from berth.state import Progress

# "Loading safetensors checkpoint shards:  25% Completed | 1/4 [", "model.safetensors:  12%|#1   | 482M/3.95G [00:00<"
_BAR = re.compile(r"(?P<what>[^|\r]*?):?\s*(?P<percent>\d{1,3})%(?:\||\s+Completed\s*\|)(?P<rest>[^\r]*)")
# "Downloading bytes:  ##   | 4.50GB", "Loading: 17it [00:03,  5.2it/s]": of unknown length
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
_LEVEL_WITHIN = 100  # first characters of a line that may hold its level

# The first match decides the phase of a line. A progress bar in bytes without a match is the download of a file.
_PHASES = (
    ("fork", re.compile(r"^berth exec: forked from the preloaded ")),
    ("import", re.compile(r"^berth exec: started without the preloaded ")),
    (
        "load",
        re.compile(r"checkpoint shards|loading shards|oading weights|Load weight|Starting to load model|Prefetch"),
    ),
    ("download", re.compile(r"Fetching \d+ files|Downloading|Reconstruct")),
    ("graphs", re.compile(r"CUDA graph|cuda graph|Capturing batches|Graph capturing")),
    ("compile", re.compile(r"torch\.compile|Dynamo bytecode|Compiling|JIT ops|\bninja\b")),
    ("warm-up", re.compile(r"[Ww]arm(ing)?[ -]?up|Autotun|init engine|Application startup|Started server process")),
)
# "Enforce eager set, disabling torch.compile, CUDAGraphs"
_NO_PHASE = re.compile(r"[Dd]isabl(ed|ing)|non-default args")
_MAX_LINE = 1000  # characters; a longer line is a dump of the configuration, which contains every pattern
_MEASURED = {"load", "download"}  # phases that may take long and report progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """The progress of one start, up to the current line of its log."""

    progress: Progress = field(default_factory=lambda: Progress(phase="process"))
    files: dict[str, tuple[float, float]] = field(default_factory=dict)  # downloads: bytes done and total, by name
    memory: StartMemory = field(default_factory=StartMemory)  # what it says that it takes
    moves: int = 0  # counts the lines that showed progress of a download or a load


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of a progress bar."""

    what: str  # the same on every line of one bar
    percent: int


def parse_bar(line: str) -> Bar | None:
    match = _match_bar(line)
    if match:
        return Bar(what=_bar_name(match["what"]), percent=min(100, int(match["percent"])))
    if (counted := _COUNTED.match(line)) and int(counted["total"]) > 0:
        return Bar(what="build", percent=min(100, 100 * int(counted["done"]) // int(counted["total"])))
    if _BAR_WITHOUT_PERCENT.match(line[:_MAX_LINE]):
        return Bar(what=_bar_name(line.partition("[")[0].partition(":")[0]), percent=0)
    return None


def _bar_name(text: str) -> str:
    return " ".join(_CHANGING.sub(" ", text).split())


def log_level(line: str) -> str | None:
    """As given by the engine at the beginning of the line."""
    match = _LEVEL.search(line[:_LEVEL_WITHIN])
    return _LEVELS[(match[1] or match[2])[0]] if match else None


def advance(tracker: Tracker, line: str) -> Tracker:
    """The tracker after one more line."""
    memory = after_line(tracker.memory, line)
    if memory is not tracker.memory:
        tracker = replace(tracker, memory=memory)
    match = _match_bar(line)
    amount = _amount(match) if match else None
    phase = "download" if amount else None
    if len(line) <= _MAX_LINE and not _NO_PHASE.search(line):
        phase = next((phase for phase, pattern in _PHASES if pattern.search(line)), phase)
    if phase is None:
        return tracker
    files, percent = tracker.files, None
    if match and phase == "download":
        files = {**files, match["what"].strip(): amount} if amount else files
        percent = _percent(match, files)
    elif match:
        percent = _percent(match, {})
    if percent is None and phase == tracker.progress.phase:
        return tracker
    done, total = (round(sum(of)) for of in zip(*files.values(), strict=True)) if files else (None, None)
    sizes = (done, total) if phase == "download" else (None, None)
    progress = Progress(phase=phase, percent=percent, done_bytes=sizes[0], total_bytes=sizes[1])
    moved = phase in _MEASURED and progress != tracker.progress
    return replace(tracker, progress=progress, files=files, moves=tracker.moves + moved)


def _percent(match: re.Match[str], files: Mapping[str, tuple[float, float]]) -> float:
    """Of all files together, where their sizes are known, else of the bar."""
    total = sum(total for _, total in files.values())
    if total > 0:
        return round(min(100.0, 100 * sum(done for done, _ in files.values()) / total), 1)
    return float(min(100, int(match["percent"])))


def _match_bar(line: str) -> re.Match[str] | None:
    return _BAR.match(line[:_MAX_LINE]) if "%" in line else None


def _amount(match: re.Match[str]) -> tuple[float, float] | None:
    """Bytes done and total. None for a bar that counts something else."""
    found = _AMOUNT.search(match["rest"])
    if not found or not (found["done_unit"] or found["total_unit"]):
        return None
    try:
        return float(found["done"]) * _UNITS[found["done_unit"]], float(found["total"]) * _UNITS[found["total_unit"]]
    except ValueError:  # "1.2.3"
        return None
