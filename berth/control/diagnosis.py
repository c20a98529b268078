"""Why an engine died: the one line of its log that an operator needs; pure.

The wording is that of vLLM 0.32, SGLang 0.5, TensorRT-LLM 1.2 and argparse.

What explains the death of an engine: its log, the signal that ended it, and the kernel's count of kills.

The kernel may kill one of the engine's processes, and the leader dies of that later: a kill explains the deaths of
the minute after it, once.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from berth.control.load_progress import bar
from berth.control.supervisord_client import Process, Supervisor
from berth.errors import ControlError
from berth.host.oom import Counters, Kills, cause
from berth.log_lines import clean

LINE_LIMIT = 500  # characters of a log line that go into the State
LAST_LINES = 12
# Exit codes that mean: the command line cannot work. 2 is argparse's, 78 ours, 126 and 127 the shell's for a program
# that cannot be executed or is not there.
HOPELESS_EXITS = frozenset({2, 78, 126, 127})
_LONGEST = 4000  # characters of a line that are looked at

_EXCEPTION = re.compile(
    r"(?:^|[\s\]:])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|OSError|Exit|Timeout)): +(\S.*)"
)
_WRAPPERS = re.compile(
    r"See root cause above|Engine core initialization failed|EngineDeadError|Worker proc .* died"
    r"|WorkerProc initialization|CalledProcessError|SystemExit|BrokenPipeError|ConnectionResetError|cancelled"
)
_LINE_OF_ERROR = re.compile(
    r"\b(ERROR|CRITICAL|FATAL)\b|\berror: |Killed|core dumped|Segmentation fault|terminate called"
)
_FATAL_WORDS = (
    re.compile(r"[Aa]ddress already in use|Failed to bind socket|error while attempting to bind"),
    re.compile(
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|less than desired GPU memory"
    ),
    re.compile(r"No space left on device"),
    re.compile(r"unrecognized arguments|invalid choice|argument -[-\w/]+: |the following arguments are required"),
)
_HOPELESS = re.compile(
    r"unrecognized arguments|invalid choice|: error: argument |arguments are required|No such file or directory: '/"
    r"|larger than the derived max_model_len|greater than the derived max_model_len|not a valid model identifier"
    r"|Sleep mode is not supported|Extra inputs are not permitted|is not supported for now|Failed to infer device type"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an engine died, as its log tells it; the last two are known from elsewhere."""

    reason: str = ""  # one line; "" where the log says nothing
    last_lines: tuple[str, ...] = ()
    hopeless: bool = False  # the next start would fail in the same way
    signal: str = ""  # what ended the leader, "SIGKILL"; "": none, or nobody knows
    out_of_memory: str = ""  # why the kernel killed the engine or a part of it; "": it did not


def explain(lines: Iterable[str]) -> Failure:
    """The reason in the last lines of a log, oldest first. There are four cases, the first that applies counts:
    1. words of a well-known misfortune (port taken, memory, disk, a wrong option)
    2. the last exception that is not merely another one's wrapper
    3. the last line marked as an error
    4. the last line
    """
    told = [clean(line[:_LONGEST]) for line in lines if line.strip() and bar(line) is None]
    reason = _well_known(told) or _exception(told) or _marked(told) or (told[-1] if told else "")
    reason = _shorten(reason)
    return Failure(reason=reason, last_lines=_evidence(told), hopeless=bool(_HOPELESS.search(reason)))


def _well_known(lines: Sequence[str]) -> str:
    for words in _FATAL_WORDS:
        for line in reversed(lines):
            if words.search(line):
                return _without_prefix(line)
    return ""


def _exception(lines: Sequence[str]) -> str:
    found = [f"{match[1]}: {match[2]}" for line in lines if (match := _EXCEPTION.search(line))]
    causes = [text for text in found if not _WRAPPERS.search(text)]
    return (causes or found or [""])[-1]


def _marked(lines: Sequence[str]) -> str:
    return next((_without_prefix(line) for line in reversed(lines) if _LINE_OF_ERROR.search(line)), "")


def _without_prefix(line: str) -> str:
    """From the exception's name on, where there is one; else the whole line."""
    match = _EXCEPTION.search(line)
    return f"{match[1]}: {match[2]}" if match else line.strip()


def _evidence(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines that speak of errors, each once, at most a dozen; the last ones of any kind where none does."""
    errors = [line for line in lines if _EXCEPTION.search(line) or _LINE_OF_ERROR.search(line)]
    different = list(dict.fromkeys(_shorten(line) for line in errors or lines))
    return tuple(different[-LAST_LINES:])


def _shorten(text: str) -> str:
    return text if len(text) <= LINE_LIMIT else text[: LINE_LIMIT - 3] + "..."


WINDOW_S = 60.0

Dead = tuple[str, Process | None, Iterable[str]]  # a replica, its process, and the last lines of its log


class Deaths:
    """Remembers the kernel's counters for as long as they may explain something."""

    def __init__(self, supervisor: Supervisor, read: Callable[[], Kills] | None = None) -> None:
        self._supervisor = supervisor
        self._read = read or Counters().read
        self._seen: deque[tuple[float, Kills]] = deque()

    @property
    def latest(self) -> Kills | None:
        """For the notes: kills while no control runs are counted too."""
        return self._seen[-1][1] if self._seen else None

    def look(self, now: float, known: Kills | None = None) -> None:
        """Called every few seconds, and once with what the control before knew."""
        self._seen.append((now, known or self._read()))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    async def explain(self, dead: Iterable[Dead], now: float) -> dict[str, Failure]:
        """The failure of each replica that was found dead at one look."""
        self.look(now)
        memory = cause(self._seen[0][1], self._seen[-1][1])
        failures = {name: await self._explain(name, process, lines, memory) for name, process, lines in dead}
        if any(failure.out_of_memory for failure in failures.values()):
            self._seen = deque([self._seen[-1]])  # it does not explain what dies later
        return failures

    async def _explain(self, name: str, process: Process | None, lines: Iterable[str], memory: str) -> Failure:
        found = explain(lines)
        code = process.exit_code if process else None
        if code in HOPELESS_EXITS or (process and process.never_ran):
            return found
        return replace(found, out_of_memory=memory, signal=await self._signal(name) if code == -1 else "")

    async def _signal(self, name: str) -> str:
        try:
            return await self._supervisor.last_signal(name)
        except ControlError:  # it is just as dead without
            return ""
