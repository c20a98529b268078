"""The foreground process: boot becomes it by execve (see `spawn.stay`), and supervisord is its child.

It merges the output of all programs into one stream of complete lines, each with the program's name. Writers never
block on the reader of the container's standard output. It forwards signals, and exits with supervisord's exit code
after the final log lines of all programs.

It also watches control (see berth.ipc.heartbeats): a silent one is killed, and supervisord starts it again. supervisord
itself may not stay stopped: killing it would end everything, so it is resumed.

It imports little: it starts together with all other programs, and runs as long as they do.
"""

import math
import os
import re
import selectors
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from berth.boot.foreground.start_block import BlockWriter, has_terminal
from berth.boot.foreground.stdout_writer import StdoutWriter
from berth.ipc import heartbeats
from berth.log import LogFormat, foreign_line
from berth.log_lines import Splitter

CHUNK_BYTES = 65536
LONGEST_LINE = 64 * 1024  # control's lines contain lines of engines
FINAL_LINES_S = 12.0  # after supervisord's end: control terminates the engines of a killed supervisord
SUPERVISORD = "supervisord"
REPEAT_S = 60.0
MOST_SHOWN = 1000
FORWARDED = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is closed; supervisord would restart all programs
    signal.SIGUSR2: signal.SIGUSR2,
}
_FORMATTED = {"text": re.compile(r"\d\d:\d\d:\d\d \S+ \| "), "json": re.compile(r'\{"time":.*\}$')}


class Channel:
    """The output of one program, as lines of the common stream."""

    def __init__(self, program: str, reader: int, log_format: LogFormat) -> None:
        self.reader = reader
        self._program = program
        self._shown: dict[str, float] | None = {} if program == SUPERVISORD else None
        self._format = log_format
        self._splitter = Splitter(LONGEST_LINE)

    def read(self) -> tuple[str, bool]:
        """The complete lines, and whether all writers have closed the FIFO, which flushes."""
        try:
            data = os.read(self.reader, CHUNK_BYTES)
        except BlockingIOError:
            return "", False
        lines = self._splitter.feed(data) if data else self._splitter.flush()
        if self._shown is not None:
            lines = [line for line in lines if self._is_new(self._shown, line, time.monotonic())]
        # Log events of Berth stay as they are; other output gets the program's name and the time.
        texts = (
            f"{line}\n"
            if _FORMATTED[self._format].match(line)
            else foreign_line(self._program, line, self._format, time.time())
            for line in lines
        )
        return "".join(texts), not data

    def _is_new(self, shown: dict[str, float], line: str, now: float) -> bool:
        """With a full disk supervisord writes the same traceback for each line that it cannot store: once a minute is
        enough.
        """
        if now - shown.get(line, -math.inf) < REPEAT_S:
            return False
        if len(shown) > MOST_SHOWN:
            shown.clear()
        shown[line] = now
        return True


class ControlWatch:
    """Kills control when its event loop does nothing any more."""

    def __init__(self, path: Path, log_format: LogFormat) -> None:
        self._path = path
        self._format = log_format
        self._watch = heartbeats.Watch()

    def round(self, now: float) -> str:
        """The log lines of what it has done."""
        rows = heartbeats.read_rows(self._path)[heartbeats.CONTROL : heartbeats.CONTROL + 1]
        lines = ""
        for row in self._watch.silent(heartbeats.live(rows), now):
            lines += self.line(f"silent control killed pid={row.pid}", "error")
            heartbeats.send(row, signal.SIGKILL)
        return lines

    def line(self, text: str, level: str) -> str:
        return foreign_line("berth", text, self._format, time.time(), level)


class Foreground:
    """Reads until supervisord, and then all other writers, have ended."""

    def __init__(self, channels: Mapping[Path, Channel], child: int, output: StdoutWriter, watch: ControlWatch) -> None:
        self._child = child
        self._output = output
        self._watch = watch
        self._code: int | None = None
        self._stopping = False  # a signal to stop was received
        self._selector = selectors.DefaultSelector()
        self._open = list(channels.values())
        self._holders = [os.open(path, os.O_WRONLY) for path in channels]  # else a FIFO ends between two writers
        for channel in self._open:
            self._selector.register(channel.reader, selectors.EVENT_READ, channel)

    def run(self) -> int:
        """The exit code."""
        next_round = time.monotonic()
        self._reap_child()
        while self._code is None:
            self._read(max(0.0, next_round - time.monotonic()))
            self._reap_child()
            if (now := time.monotonic()) >= next_round:
                self._output.put(self._watch.round(now))
                next_round = now + heartbeats.ROUND_S
        for holder in self._holders:
            os.close(holder)
        deadline = time.monotonic() + FINAL_LINES_S
        while self._open and time.monotonic() < deadline:
            self._read(0.2)
        self._output.close()
        return self._code

    def forward(self, number: int) -> None:
        if self._code is None:
            self._stopping = self._stopping or number != signal.SIGUSR2
            os.kill(self._child, FORWARDED[signal.Signals(number)])

    def wake_by(self, descriptor: int) -> None:
        """Becomes readable on each signal, SIGCHLD of supervisord's end among them."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def _reap_child(self) -> None:
        """The child stays a zombie until this call, so its pid cannot be another process's."""
        pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            os.kill(self._child, signal.SIGCONT)
            self._output.put(self._watch.line(f"stopped supervisord resumed pid={self._child}", "warning"))
        elif pid:
            code = os.waitstatus_to_exitcode(status)
            early = self._stopping and code in (-signal.SIGTERM, -signal.SIGINT)  # before it had a signal handler
            self._code = 0 if early else code if code >= 0 else 128 - code

    def _read(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(key.fd, CHUNK_BYTES)
                continue
            text, ended = key.data.read()
            self._output.put(text)
            if ended:
                self._selector.unregister(key.fd)
                self._open.remove(key.data)


def main(argv: list[str]) -> NoReturn:
    """FORMAT PID HEARTBEATS PATH=READER...: the arguments from `spawn.stay`."""
    log_format: LogFormat = "json" if argv[0] == "json" else "text"

    def lost(lines: int) -> str:
        text = f"{lines} log lines lost: standard output was not read"
        return foreign_line("berth", text, log_format, time.time(), "warning")

    readers = [(Path(path), int(reader)) for path, _, reader in (word.rpartition("=") for word in argv[3:])]
    channels = {path: Channel(path.stem, reader, log_format) for path, reader in readers}
    watch = ControlWatch(Path(argv[2]), log_format)
    if log_format == "text" and has_terminal(1, os.environ.get("TERM", "")):
        output: StdoutWriter = BlockWriter(1, lost, Path(argv[2]).with_name("state.json"))
    else:
        output = StdoutWriter(1, lost)
    foreground = Foreground(channels, int(argv[1]), output, watch)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    foreground.wake_by(reader)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTSTP, signal.SIGTTOU):  # a stopped reader would block all writers
        signal.signal(number, signal.SIG_IGN)
    for number in FORWARDED:
        signal.signal(number, lambda received, _frame: foreground.forward(received))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    sys.exit(foreground.run())


if __name__ == "__main__":
    main(sys.argv[1:])
