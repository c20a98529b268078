"""One line per event on standard output, as text or as JSON, from every Berth program.

    configure(program="control", format="text", level="info")
    log.info("replica ready", replica="chat-vllm", after_s=21.4)

Values are quoted so that one event is always one line. Secrets never reach a log call.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

LogFormat = Literal["text", "json"]
LogValue = str | int | float | bool | None


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
    """Renders a record as exactly one line."""

    def __init__(self, program: str, log_format: LogFormat) -> None:
        super().__init__()
        self._program = program
        self._format = log_format

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, LogValue] = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._format == "json":
            return self._json(record, fields)
        return self._text(record, fields)

    def _json(self, record: logging.LogRecord, fields: dict[str, LogValue]) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment,
            "level": record.levelname.lower(),
            "program": self._program,
            "event": record.getMessage(),
            **fields,
        }
        return orjson.dumps({key: _printable(value) for key, value in line.items()}, default=str).decode()

    def _text(self, record: logging.LogRecord, fields: dict[str, LogValue]) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        return f"{moment} {self._program} | {level}{_one_line(record.getMessage())}{pairs}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines; a full disk or a closed pipe behind standard output loses the line, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        pass


def configure(*, program: str, log_format: LogFormat = "text", level: str = "info") -> None:
    """Sends the events of this process to standard output. Called once, by a program's entry point."""
    handler = LineHandler(sys.stdout)
    handler.setFormatter(LineFormatter(program, log_format))
    logger = logging.getLogger("berth")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _quoted(value: LogValue) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    if isinstance(value, str) and value and not any(c in value for c in ' "=\n\r'):
        return value
    if isinstance(value, str):
        return orjson.dumps(_printable(value)).decode()
    return str(value)


def _printable(value: LogValue) -> LogValue:
    """Lone surrogates, which no encoder takes, become question marks."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
