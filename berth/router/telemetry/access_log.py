"""The access log (BERTH_REQUEST_LOG): one line for each request, collected and written a few times a second.

The lines look like those of berth.log, which writes each at once: that would cost a busy router a tenth of its time.
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Final

import orjson

from berth.log import PIPE_BYTES
from berth.log_lines import mask_secrets
from berth.plan import Logs
from berth.router.exchange.request import RequestContext

_STDOUT: Final = 1
_NAMES: Final = (
    *("request", "key", "api", "model", "replica", "status", "attempts"),
    *("prompt_tokens", "completion_tokens", "first_token_s", "duration_s", "continued", "preempted", "rule"),
)
_NEED_QUOTES: Final = frozenset(' "=')

Row = tuple[str, str, str, str, str, int, int, int, int, float | None, float, bool, int, str]


class AccessLog:
    """Of one worker. `add` only collects the values of the line."""

    def __init__(self, logs: Logs) -> None:
        self.enabled = logs.requests and logs.level in {"debug", "info"}
        self._line = _json_line if logs.format == "json" else _text_line
        self._rows: list[tuple[float, Row]] = []

    def add(self, ctx: RequestContext, duration_s: float) -> None:
        request_id = ctx.request_id
        row = (
            request_id if request_id.isalnum() else mask_secrets(request_id),  # clients may send anything
            ctx.key.name,
            api_name(type(ctx.api)),
            ctx.request.model,
            ctx.served_by.name if ctx.served_by is not None else "",
            ctx.status,
            ctx.attempts,
            ctx.usage.prompt_tokens,
            ctx.usage.completion_tokens,
            ctx.first_token_s,
            duration_s,
            ctx.continued,
            ctx.preemptions,
            "" if ctx.rule is None else ctx.rule.name,
        )
        self._rows.append((time.time(), row))

    def flush(self) -> None:
        """Writes the lines; a full disk or a closed pipe behind standard output loses them, and nothing else."""
        rows, self._rows = self._rows, []
        try:
            for piece in pieces(self._line(at, row) for at, row in rows):
                os.write(_STDOUT, piece)
        except OSError:
            pass


def pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines in pieces that a pipe takes at once: larger ones could mix with those of other processes."""
    piece = b""
    for line in lines:
        if len(piece) + len(line) > PIPE_BYTES:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece


@cache
def api_name(kind: type) -> str:
    """The client API that a format belongs to, e.g. "anthropic": its folder (or module) in berth.apis."""
    name = kind.__module__.split(".")[2]
    return "openai" if name == "responses" else name


def _text_line(at: float, row: Row) -> bytes:
    request, key, api, model, replica, status, attempts, prompt, completion, first_s, duration_s, *rest = row
    continued, preempted, rule = rest
    more = (f" preempted={preempted}" if preempted else "") + (f" rule={rule}" if rule else "")
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    first = "" if first_s is None else f" first_token_s={first_s:.3f}"
    return (
        f"{clock} router | request request={_quoted(request)} key={key} api={api} model={_quoted(model)} "
        f"replica={replica or '-'} status={status} attempts={attempts} "
        f"prompt_tokens={prompt} completion_tokens={completion}{first} "
        f"duration_s={duration_s:.3f} continued={continued}{more}\n"
    ).encode()


def _json_line(at: float, row: Row) -> bytes:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    values = [round(value, 3) if isinstance(value, float) else value for value in row]
    head = {"time": moment, "level": "info", "program": "router", "event": "request"}
    return orjson.dumps(head | dict(zip(_NAMES, values, strict=True)), option=orjson.OPT_APPEND_NEWLINE)


def _quoted(text: str) -> str:
    return text if _NEED_QUOTES.isdisjoint(text) else orjson.dumps(text).decode()
