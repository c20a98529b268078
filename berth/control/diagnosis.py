"""Why an engine died: the line of its log that an operator needs, the signal that ended it, the kernel's OOM kills.

The patterns match the messages of vLLM 0.33, SGLang 0.5, TensorRT-LLM 1.2 and argparse.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from berth.control.logs.load_progress import parse_bar
from berth.control.supervisord_client import Process, SupervisordClient
from berth.errors import ControlError
from berth.host.oom import Counters, Kills, cause
from berth.log_lines import clean

MAX_TEXT = 500  # characters of a log line in the State
LAST_LINES = 12
WINDOW_S = 60.0  # after an OOM kill
# Exit codes of a command line that cannot work. 2 is argparse's, 78 is Berth's, 126 and 127 are the shell's for a
# program that is not executable or not found.
HOPELESS_EXITS = frozenset({2, 78, 126, 127})
_MAX_LINE = 4000  # characters of a line that are searched

Exit = tuple[str, Process | None, Iterable[str]]  # a replica, its process, and the last lines of its log

_EXCEPTION = re.compile(
    r"(?:^|[\s\]:])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|OSError|Exit|Timeout)): +(\S.*)"
)
_WRAPPERS = re.compile(
    r"See root cause above|Engine core initialization failed|EngineDeadError|Worker proc .* died"
    r"|WorkerProc initialization|CalledProcessError|SystemExit|BrokenPipeError|ConnectionResetError|cancelled"
)
_ERROR_LINE = re.compile(r"\b(ERROR|CRITICAL|FATAL)\b|\berror: |Killed|core dumped|Segmentation fault|terminate called")
_KNOWN_CAUSES = (
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
    r"|NotImplemented(?:Error)?: "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The cause of an exit. The last two fields do not come from the log."""

    reason: str = ""  # one line; "" for an empty log
    last_lines: tuple[str, ...] = ()
    hopeless: bool = False  # the next start would fail in the same way
    signal: str = ""  # that ended the session leader, e.g. "SIGKILL"; "" if none, or unknown
    out_of_memory: str = ""  # why the kernel killed one of the engine's processes; "" if it did not


def explain_log(lines: Iterable[str]) -> Failure:
    """The cause in the last lines of a log (oldest first), and up to a dozen distinct error lines as evidence. Where
    there are no error lines, the last lines of any kind are the evidence.
    """
    texts = [clean(line[:_MAX_LINE]) for line in lines if line.strip() and parse_bar(line) is None]
    reason = _shorten(next(_causes(texts), ""))
    errors = [text for text in texts if _EXCEPTION.search(text) or _ERROR_LINE.search(text)]
    evidence = list(dict.fromkeys(_shorten(text) for text in errors or texts))
    return Failure(reason=reason, last_lines=tuple(evidence[-LAST_LINES:]), hopeless=bool(_HOPELESS.search(reason)))


def _causes(lines: Sequence[str]) -> Iterator[str]:
    """Candidates, the best first. There are four cases:
    1. a well-known cause (port in use, memory, disk, wrong option)
    2. the last exception that does not merely wrap another one, or else the last one
    3. the last line marked as an error
    4. the last line
    """
    latest_first = lines[::-1]
    for pattern in _KNOWN_CAUSES:
        yield from (_exception(line) or line.strip() for line in latest_first if pattern.search(line))
    exceptions = [exception for line in latest_first if (exception := _exception(line))]
    yield from (exception for exception in exceptions if not _WRAPPERS.search(exception))
    yield from exceptions
    yield from (line.strip() for line in latest_first if _ERROR_LINE.search(line))
    yield from latest_first


def _exception(line: str) -> str:
    """From the exception's name on; "" where there is none."""
    match = _EXCEPTION.search(line)
    return f"{match[1]}: {match[2]}" if match else ""


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


class FailureDiagnosis:
    """Combines an engine's log, its signal and the kernel's OOM counters.

    The kernel may kill one of the engine's processes, and its session leader dies later as a consequence: a kill
    explains the exits of the following minute, and no later ones once it has explained some.
    """

    def __init__(self, supervisord: SupervisordClient, read: Callable[[], Kills] | None = None) -> None:
        self._supervisord = supervisord
        self._read = read or Counters().read
        self._samples: deque[tuple[float, Kills]] = deque()  # of the last WINDOW_S

    @property
    def latest(self) -> Kills | None:
        """For the persisted control state: kills while no control is running count too."""
        return self._samples[-1][1] if self._samples else None

    def sample(self, now: float, known: Kills | None = None) -> None:
        """Called every few seconds, and once with the `latest` of the previous control."""
        self._samples.append((now, known or self._read()))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    async def diagnose(self, exits: Iterable[Exit], now: float) -> dict[str, Failure]:
        """The failures of the replicas whose exits were detected by the same poll."""
        self.sample(now)
        out_of_memory = cause(self._samples[0][1], self._samples[-1][1])
        failures = {}
        for name, process, lines in exits:
            failure = explain_log(lines)
            code = process.exit_code if process else None
            if code not in HOPELESS_EXITS and not (process and process.never_ran):
                signal = ""
                if code == -1:
                    with suppress(ControlError):  # the exit counts without it
                        signal = await self._supervisord.last_signal(name)
                failure = replace(failure, out_of_memory=out_of_memory, signal=signal)
            failures[name] = failure
        if any(failure.out_of_memory for failure in failures.values()):
            self._samples = deque([self._samples[-1]])
        return failures
