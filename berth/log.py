"""One line per event on standard output, as text or as JSON, from every Berth program.

    configure(program="control", format="text", level="info")
    log.info("replica ready", replica="chat-vllm", after_s=21.4)

Values are quoted so that one event is always one line, and what looks like a secret is taken out. A line is never
longer than a pipe takes at once: longer ones come in parts, and those of several processes cannot mix.
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

from berth.log_lines import without_secrets

LogFormat = Literal["text", "json"]
LogValue = str | int | float | bool | None

PIPE_BYTES = 4096  # PIPE_BUF: a write of so many bytes arrives in one piece, whoever else writes
PART_BYTES = 3000  # of a line that is longer; the rest is for the time, the program and the event's name
EVENT_LENGTH = 100  # characters of the event's name that each part repeats


class Log:
    """Events with named values; a thin face on the standard library's logger `berth`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: LogValue) -> None:
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: LogValue) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: LogValue) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: LogValue) -> None:
        self._logger.error(event, extra={"fields": fields})

    def exception(self, event: str, **fields: LogValue) -> None:
        """An error with the traceback of the exception in flight, on the same line."""
        self._logger.error(event, extra={"fields": fields}, exc_info=True)  # noqa: LOG014 - callers are the handlers


log = Log(logging.getLogger("berth"))


class LineFormatter(logging.Formatter):
    """Renders a record as exactly one line, or as the parts of one."""

    def __init__(self, program: str, log_format: LogFormat) -> None:
        super().__init__()
        self._program = program
        self._format = log_format

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        if self._format == "json":
            return self._json(record, {"event": record.getMessage(), **fields})
        return self._text(record, _told(record.getMessage(), fields))

    def lines(self, record: logging.LogRecord) -> list[str]:
        """The line, or its parts if a pipe would not take it at once; each is a line of its own."""
        whole = self.format(record)
        return [whole] if len(whole.encode()) < PIPE_BYTES else list(self._parts(record))

    def _fields(self, record: logging.LogRecord) -> dict[str, LogValue]:
        fields: dict[str, LogValue] = dict(getattr(record, "fields", {}))
        if record.name.partition(".")[0] not in {"berth", "_granian"}:
            fields["logger"] = record.name
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields

    def _parts(self, record: logging.LogRecord) -> Iterator[str]:
        event = _one_line(record.getMessage())
        pieces = _pieces(_told(event, self._fields(record)))
        for number, piece in enumerate(pieces, 1):
            part = f"{number}/{len(pieces)}"
            if self._format == "json":
                yield self._json(record, {"event": event[:EVENT_LENGTH], "part": part, "text": piece})
            else:
                yield self._text(record, f"[{part}] {piece}")

    def _json(self, record: logging.LogRecord, fields: dict[str, LogValue]) -> str:
        level = {"level": record.levelname.lower()}
        return _json_line({"time": _moment(record.created), **level, "program": self._program, **fields})

    def _text(self, record: logging.LogRecord, told: str) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{_clock(record.created)} {self._program} | {level}{told}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines; a full disk or a closed pipe behind standard output loses the line, and nothing else."""

    def emit(self, record: logging.LogRecord) -> None:
        formatter = self.formatter
        assert isinstance(formatter, LineFormatter)  # noqa: S101 - `configure` sets it
        try:
            for line in formatter.lines(record):
                self.stream.write(line + self.terminator)
                self.flush()  # one write for one line
        except Exception:  # noqa: BLE001 - whatever standard output is: logging must not fail
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        pass


def configure(
    *, program: str, log_format: LogFormat = "text", level: str = "info", channel: Path | None = None
) -> None:
    """Sends the events of this process to standard output. Called once, by a program's entry point.

    `channel` is the FIFO at which boot listens to this program; what others of this process have to say (asyncio,
    warnings, an exception that nobody caught) then comes as events too.
    """
    if channel is not None:
        _speak_through(channel)
        logging.captureWarnings(capture=True)
        sys.excepthook = _last_words
    handler = LineHandler(sys.stdout)
    handler.setFormatter(LineFormatter(program, log_format))
    root = logging.getLogger()
    root.handlers = [*(one for one in root.handlers if not isinstance(one, LineHandler)), handler]
    logger = logging.getLogger("berth")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def foreign_line(program: str, line: str, log_format: LogFormat, now: float, level: str | None = None) -> str:
    """What another program said, as a line of the common stream, with its end. `now`: Unix seconds."""
    if log_format == "text":
        return f"{_clock(now)} {program} | {line}\n"
    known: dict[str, LogValue] = {"level": level} if level else {}
    return _json_line({"time": _moment(now), **known, "program": program, "line": line}) + "\n"


def fatal_lines(program: str, text: str, exit_code: int, log_format: LogFormat, now: float) -> str:
    """Why a program does not start: text as it is, for people; as JSON one line for each of its lines."""
    if log_format == "text":
        return f"berth {program}: {text}\n"
    known = {"time": _moment(now), "level": "critical", "program": program, "exit_code": exit_code}
    lines = (line.encode("utf-8", "replace").decode() for line in text.splitlines() if line.strip())
    return "".join(orjson.dumps({**known, "event": line}).decode() + "\n" for line in lines)


def _speak_through(channel: Path) -> None:
    """Past supervisord, so that it need not live for our last words. Where nobody listens, all stays as it is."""
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


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log_to = logging.getLogger("berth")
    log_to.critical("ended by an exception", exc_info=(kind, error, trace))


def _json_line(fields: dict[str, LogValue]) -> str:
    safe = {key: _safe(value) if isinstance(value, str) else value for key, value in fields.items()}
    return orjson.dumps(safe, default=str).decode()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _told(event: str, fields: dict[str, LogValue]) -> str:
    return _one_line(event) + "".join(f" {key}={_quoted(value)}" for key, value in fields.items())


def _pieces(text: str) -> list[str]:
    text, pieces = _safe(text), []
    while text:
        size = PART_BYTES
        while len(orjson.dumps(text[:size])) > PART_BYTES:
            size = size * 3 // 4
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def _one_line(text: str) -> str:
    return _safe(text).replace("\r", "\\r").replace("\n", "\\n")


def _quoted(value: LogValue) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    if not isinstance(value, str):
        return str(value)
    text = _safe(value)
    return text if text and not any(c in text for c in ' "=\n\r') else orjson.dumps(text).decode()


def _safe(text: str) -> str:
    """Without secrets; lone surrogates, which no encoder takes, become question marks."""
    return without_secrets(text.encode("utf-8", "replace").decode())
