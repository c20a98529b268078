"""Capture: for a limited time, requests and responses are kept as they went over the wire, to find out why a client and
an engine do not understand each other. An operator starts it; it is off otherwise.

Router workers record, take the secrets out and hand each request to control, which holds the last ones in its memory:
nothing of them is written to a disk, and a restart of control forgets them.
"""

import re
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

LONGEST_S: Final = 3600.0
USUAL_S: Final = 600.0
MOST_REQUESTS: Final = 200
KEPT_S: Final = 3600.0  # after the end of a capture
KEPT_BYTES: Final = 64 << 20
PART_BYTES: Final = 256 << 10  # of one body
REQUEST_BYTES: Final = 1 << 20  # of all bodies of a request
_SECONDS: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)s?")


class Only(StrEnum):
    ALL = "all"
    ERRORS = "errors"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is captured, and for how long."""

    ends: float  # Unix seconds
    model: str = ""  # its public name; "": any
    key: str = ""  # the client's name; "": any
    only: Only = Only.ALL
    slow_s: float = 0.0  # with SLOW: those that took at least so long
    most: int = MOST_REQUESTS

    def shown(self) -> str:
        """Without the end, for people."""
        parts = [self.only if self.only is not Only.SLOW else f"slow:{self.slow_s:g}s"]
        parts += [f"model={self.model}"] * bool(self.model) + [f"key={self.key}"] * bool(self.key)
        return " ".join([*parts, f"max={self.most}"])

    def wants(self, *, status: int, failed: bool, duration_s: float) -> bool:
        """A request that ended like that."""
        match self.only:
            case Only.ERRORS:
                return failed or status >= 400
            case Only.SLOW:
                return duration_s >= self.slow_s
            case _:
                return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request or a response."""

    line: str  # "POST /v1/chat/completions", "200"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    size: int = 0  # bytes of the body; more than it has here where it was cut, or is binary

    def lines(self, mark: str) -> list[str]:
        head = [f"{mark} {self.line}", *(f"{mark} {name}: {value}" for name, value in self.headers), mark]
        return [*head, self.body.rstrip("\n"), ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedAttempt:
    """What an engine got, and what it said."""

    replica: str
    request: Message
    response: Message | None = None  # None: there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A captured request."""

    id: str  # the request's
    at: float  # Unix seconds
    duration_s: float
    model: str
    key: str  # the client's name
    status: int
    failures: tuple[str, ...] = ()  # of the attempts, in order
    request: Message
    response: Message | None = None
    attempts: tuple[CapturedAttempt, ...] = ()


class CaptureAction(StrEnum):
    START = "start"
    END = "end"
    CLEAR = "clear"  # and end
    LIST = "list"
    SHOW = "show"
    ADD = "add"  # by a router worker


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    action: CaptureAction
    capture: Capture | None = None  # to start
    id: str = ""  # to show
    exchange: Exchange | None = None  # to add


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What control has. In a list the exchanges are without messages."""

    current: Capture | None = None  # None: nothing is being captured
    exchanges: tuple[Exchange, ...] = field(default=())  # the newest last
    held_bytes: int = 0


def parse_only(text: str) -> tuple[Only, float]:
    """Of "all", "errors" or "slow:5s"; the latter with its seconds. ValueError for anything else."""
    kind, colon, limit = text.partition(":")
    if kind == Only.SLOW and (found := _SECONDS.fullmatch(limit)):
        return Only.SLOW, float(found[1])
    if colon or kind not in (Only.ALL, Only.ERRORS):
        raise ValueError(f"{text!r} is none of all, errors and slow:5s")
    return Only(kind), 0.0


def as_curl(exchange: Exchange, url: str) -> str:
    """A command that sends the client's request again. Secrets have to be put in by hand."""
    method, _, path = exchange.request.line.partition(" ")
    headers = [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in exchange.request.headers if name in _REPEATED]
    body = f"--data-raw {shlex.quote(exchange.request.body)}"
    return " \\\n  ".join([f"curl -sN -X {method} {shlex.quote(url + path)}", *headers, body])


_REPEATED: Final = frozenset(
    {"accept", "authorization", "content-type", "x-api-key", "anthropic-version", "x-priority"}
)
