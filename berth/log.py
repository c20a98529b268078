"""One line per event on standard output, as text or as JSON, from every Berth program.

    configure(program="control", format="text", level="info")
    log.info("replica ready", replica="chat-vllm", after_s=21.4)

Values are quoted so that one event is always one line, and what looks like a secret is masked. A line that a pipe would
not take in one atomic write is split into parts, so that lines of several processes never mix.
"""

import logging
import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

import orjson

from berth.log_lines import mask_secrets

LogFormat = Literal["text", "json"]
LogValue = str | int | float | bool | None

PIPE_BYTES = 4096  # PIPE_BUF: a write of this size to a pipe is atomic
PART_BYTES = 3000  # of text in each part of a longer line; the rest is for time, program and event
EVENT_LENGTH = 100  # characters of the event that each part repeats


class Log:
    """Events with fields; a thin layer over the standard library's logger `berth`."""

    def __init__(self, logger: logging.Logger, /, **fields: LogValue) -> None:
        self._logger = logger
        self._fields = fields

    def bind(self, **fields: LogValue) -> "Log":
        """A log that adds these fields to every event."""
        return Log(self._logger, **(self._fields | fields))

    def debug(self, event: str, **fields: LogValue) -> None:
        self._logger.debug(event, extra={"fields": self._fields | fields})

    def info(self, event: str, **fields: LogValue) -> None:
        self._logger.info(event, extra={"fields": self._fields | fields})

    def warning(self, event: str, **fields: LogValue) -> None:
        self._logger.warning(event, extra={"fields": self._fields | fields})

    def error(self, event: str, **fields: LogValue) -> None:
        self._logger.error(event, extra={"fields": self._fields | fields})

    def exception(self, event: str, **fields: LogValue) -> None:
        """An error with the traceback of the current exception, on the same line."""
        extra = {"fields": self._fields | fields}
        self._logger.error(event, extra=extra, exc_info=True)  # noqa: LOG014 - called in exception handlers


log = Log(logging.getLogger("berth"))


class LineFormatter(logging.Formatter):
    """Renders a record as one line, or as several parts if a pipe would not take it at once."""

    def __init__(self, program: str, log_format: LogFormat) -> None:
        super().__init__()
        self._program = program
        self._format = log_format

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        if self._format == "json":
            return self._json(record, {"event": record.getMessage(), **fields})
        return self._text(record, _event_text(record.getMessage(), fields))

    def lines(self, record: logging.LogRecord) -> Iterator[str]:
        whole = self.format(record)
        if len(whole.encode()) < PIPE_BYTES:
            yield whole
            return
        event = _one_line(record.getMessage())
        pieces = _split(_event_text(event, self._fields(record)))
        for number, piece in enumerate(pieces, 1):
            part = f"{number}/{len(pieces)}"
            if self._format == "json":
                yield self._json(record, {"event": event[:EVENT_LENGTH], "part": part, "text": piece})
            else:
                yield self._text(record, f"[{part}] {piece}")

    def _fields(self, record: logging.LogRecord) -> dict[str, LogValue]:
        fields: dict[str, LogValue] = dict(getattr(record, "fields", {}))
        if record.name.partition(".")[0] not in {"berth", "_granian"}:
            fields["logger"] = record.name
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields

    def _json(self, record: logging.LogRecord, fields: dict[str, LogValue]) -> str:
        level = {"level": record.levelname.lower()}
        return _json_line({"time": _iso_time(record.created), **level, "program": self._program, **fields})

    def _text(self, record: logging.LogRecord, text: str) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{_clock_time(record.created)} {self._program} | {level}{text}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines. A full disk or a closed pipe behind standard output loses the line and has no other effect."""

    def emit(self, record: logging.LogRecord) -> None:
        formatter = self.formatter
        assert isinstance(formatter, LineFormatter)  # noqa: S101 - `configure` sets it
        try:
            for line in formatter.lines(record):
                self.stream.write(line + self.terminator)
                self.flush()  # one write per line
        except Exception:  # noqa: BLE001 - logging must never fail
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        pass


def configure(
    *, program: str, log_format: LogFormat = "text", level: str = "info", channel: Path | None = None
) -> None:
    """Sends the events of this process to standard output. Called once, by a program's entry point.

    `channel` is the FIFO on which boot receives the output of this program. With it, warnings, uncaught exceptions and
    the logs of libraries become events too.
    """
    if channel is not None:
        _redirect_output(channel)
        logging.captureWarnings(capture=True)
        sys.excepthook = _log_uncaught
    handler = LineHandler(sys.stdout)
    handler.setFormatter(LineFormatter(program, log_format))
    root = logging.getLogger()
    root.handlers = [*(one for one in root.handlers if not isinstance(one, LineHandler)), handler]
    logger = logging.getLogger("berth")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def foreign_line(program: str, line: str, log_format: LogFormat, now: float, level: str | None = None) -> str:
    """A line of another program's output in the common stream, with its newline. `now`: Unix seconds."""
    if log_format == "text":
        return f"{_clock_time(now)} {program} | {line}\n"
    known: dict[str, LogValue] = {"level": level} if level else {}
    return _json_line({"time": _iso_time(now), **known, "program": program, "line": line}) + "\n"


def fatal_lines(program: str, text: str, exit_code: int, log_format: LogFormat, now: float) -> str:
    """Why a program does not start: the plain text, or in JSON one event per line of the text."""
    if log_format == "text":
        return f"berth {program}: {text}\n"
    known = {"time": _iso_time(now), "level": "critical", "program": program, "exit_code": exit_code}
    lines = (line.encode("utf-8", "replace").decode() for line in text.splitlines() if line.strip())
    return "".join(orjson.dumps({**known, "event": line}).decode() + "\n" for line in lines)


def _redirect_output(channel: Path) -> None:
    """Bypasses supervisord, which may end before the final log lines. No effect if the FIFO has no reader."""
    try:
        pipe = os.open(channel, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    if stat.S_ISFIFO(os.fstat(pipe).st_mode):
        os.set_blocking(pipe, True)
        sys.stdout.flush()
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
    os.close(pipe)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("berth").critical("uncaught exception", exc_info=(kind, error, trace))


def _json_line(fields: dict[str, LogValue]) -> str:
    safe = {key: _masked(value) if isinstance(value, str) else value for key, value in fields.items()}
    return orjson.dumps(safe, default=str).decode()


def _iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _clock_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _event_text(event: str, fields: dict[str, LogValue]) -> str:
    return _one_line(event) + "".join(f" {key}={_quote(value)}" for key, value in fields.items())


def _split(text: str) -> list[str]:
    text, pieces = _masked(text), []
    while text:
        size = PART_BYTES
        while len(orjson.dumps(text[:size])) > PART_BYTES:
            size = size * 3 // 4
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def _one_line(text: str) -> str:
    return _masked(text).replace("\r", "\\r").replace("\n", "\\n")


def _quote(value: LogValue) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    if not isinstance(value, str):
        return str(value)
    text = _masked(value)
    return text if text and not any(c in text for c in ' "=\n\r') else orjson.dumps(text).decode()


def _masked(text: str) -> str:
    """Lone surrogates, which cannot be encoded, become question marks."""
    return mask_secrets(text.encode("utf-8", "replace").decode())
