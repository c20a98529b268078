"""The process that stays in the foreground: boot becomes it (see `attendants.stay`), and supervisord is its child.

It shows what all programs say, as one stream of whole lines with a program's name each. Nobody who writes waits for
whoever reads the container's standard output. It passes signals on, and ends with supervisord's exit code when the
last words of all programs are shown.

Imports little: it starts together with all others, and runs for ever.
"""

import os
import re
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from berth.boot.foreground.stdout_writer import StandardOutput
from berth.log import LogFormat, foreign_line
from berth.log_lines import Splitter

CHUNK_BYTES = 65536
LONGEST_LINE = 64 * 1024  # lines of control are longer than those of the engines in them
LAST_WORDS_S = 12.0  # after supervisord's end: control ends the engines of one that was killed
PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is closed; supervisord would start all programs again
    signal.SIGUSR2: signal.SIGUSR2,
}
_OURS = {"text": re.compile(r"\d\d:\d\d:\d\d \S+ \| "), "json": re.compile(r'\{"time":.*\}$')}


class Channel:
    """What one program says, made into lines of the common stream."""

    def __init__(self, program: str, reader: int, log_format: LogFormat) -> None:
        self.reader = reader
        self._program = program
        self._format = log_format
        self._splitter = Splitter(LONGEST_LINE)

    def read(self) -> tuple[str, bool]:
        """The lines that are complete, and whether all writers are gone, which flushes."""
        try:
            data = os.read(self.reader, CHUNK_BYTES)
        except BlockingIOError:
            return "", False
        lines = self._splitter.feed(data) if data else self._splitter.flush()
        return "".join(map(self._line, lines)), not data

    def _line(self, line: str) -> str:
        """Events of ours are shown as they are; what else the program said gets its name and the time."""
        if _OURS[self._format].match(line):
            return f"{line}\n"
        return foreign_line(self._program, line, self._format, time.time())


class Foreground:
    """Listens until supervisord, and then all other writers, are gone."""

    def __init__(self, channels: Mapping[Path, Channel], child: int, output: StandardOutput) -> None:
        self._child = child
        self._output = output
        self._code: int | None = None
        self._asked = False  # to end
        self._selector = selectors.DefaultSelector()
        self._open = list(channels.values())
        self._holders = [os.open(path, os.O_WRONLY) for path in channels]  # else a FIFO ends between two writers
        for channel in self._open:
            self._selector.register(channel.reader, selectors.EVENT_READ, channel)

    def run(self) -> int:
        """The exit code."""
        self._look()
        while self._code is None:
            self._listen()
            self._look()
        for holder in self._holders:
            os.close(holder)
        ends = time.monotonic() + LAST_WORDS_S
        while self._open and time.monotonic() < ends:
            self._listen(timeout_s=0.2)
        self._output.close()
        return self._code

    def pass_on(self, number: int) -> None:
        if self._code is None:
            self._asked = self._asked or number != signal.SIGUSR2
            os.kill(self._child, PASSED_ON[signal.Signals(number)])

    def wake_by(self, descriptor: int) -> None:
        """Signals become readable there, supervisord's end among them."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def _look(self) -> None:
        """A child stays a zombie until it is asked for, so its number is not another process's."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            early = self._asked and code in (-signal.SIGTERM, -signal.SIGINT)  # before it could end in good order
            self._code = 0 if early else code if code >= 0 else 128 - code

    def _listen(self, timeout_s: float | None = None) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(key.fd, CHUNK_BYTES)
                continue
            text, ended = key.data.read()
            self._output.put(text)
            if ended:
                self._selector.unregister(key.fd)
                self._open.remove(key.data)


def _lost(log_format: LogFormat) -> Callable[[int], str]:
    def told(lines: int) -> str:
        text = f"{lines} lines are lost here: nobody read standard output"
        return foreign_line("berth", text, log_format, time.time(), "warning")

    return told


def main(argv: list[str]) -> NoReturn:
    """FORMAT PID PATH=READER...: what `attendants.stay` gives."""
    log_format: LogFormat = "json" if argv[0] == "json" else "text"
    listened = [(Path(path), int(reader)) for path, _, reader in (word.rpartition("=") for word in argv[2:])]
    channels = {path: Channel(path.stem, reader, log_format) for path, reader in listened}
    foreground = Foreground(channels, int(argv[1]), StandardOutput(1, _lost(log_format)))
    _obey(foreground)
    sys.exit(foreground.run())


def _obey(foreground: Foreground) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    foreground.wake_by(reader)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTSTP, signal.SIGTTOU):  # a stopped reader would stop those who write
        signal.signal(number, signal.SIG_IGN)
    for number in PASSED_ON:
        signal.signal(number, lambda received, _frame: foreground.pass_on(received))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


if __name__ == "__main__":
    main(sys.argv[1:])
