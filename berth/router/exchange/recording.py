"""A request that is being captured: the bytes of both sides, as far as there is room for them.

With no capture on, a request has no recording, and nothing here is called.
"""

import hashlib
import re
import string
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from starlette.types import Message as AsgiMessage
from starlette.types import Scope, Send

from berth.canonical import UpstreamRequest
from berth.ipc import capture
from berth.ipc.capture import CapturedAttempt, Message
from berth.redaction import MASK, Redactor, is_secret

TAPE_BYTES: Final = 1 << 20  # of a body: media, which is left out in the end, is part of it
_MOST_ATTEMPTS: Final = 4
_MEDIA: Final = re.compile(  # it looks for one where a word begins, and so once at each place
    r"(?<![A-Za-z0-9+/])(?:data:([a-z]{1,20}/[a-z0-9.+-]{1,60});base64,)?([A-Za-z0-9+/]{1024,}+={0,2})"
)
_OF_WORDS: Final = string.ascii_letters + string.digits + "._~+/=-"

Headers = Iterable[tuple[bytes, bytes]]


class Tape:
    """The beginning of a body. `room` says how many of these bytes there is memory for, and takes them."""

    __slots__ = ("_room", "kept", "size")

    def __init__(self, room: Callable[[int], int]) -> None:
        self._room = room
        self.kept = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        wanted = min(len(data), TAPE_BYTES - len(self.kept))
        if wanted > 0:
            self.kept += data[: self._room(wanted)]


class Attempt:
    """A request to an engine, and its response."""

    __slots__ = ("answer", "asked", "path", "replica", "response_headers", "sent_headers", "status")

    def __init__(self, replica: str, path: str, headers: Headers, room: Callable[[int], int]) -> None:
        self.replica = replica
        self.path = path
        self.sent_headers = headers
        self.asked, self.answer = Tape(room), Tape(room)
        self.status = 0  # 0: it did not respond
        self.response_headers: Headers = ()


class Recording:
    """Of one request; `send` takes the place of the client's."""

    __slots__ = (
        *("_room", "_scope", "_send", "at", "attempts", "body", "headers", "held_bytes", "response", "since"),
        "status",
    )

    def __init__(self, scope: Scope, send: Send, room: Callable[[int], int]) -> None:
        self._scope = scope
        self._send = send
        self._room = room
        self.at, self.since = time.time(), time.monotonic()
        self.held_bytes = 0
        self.body, self.response = Tape(self._take), Tape(self._take)
        self.status = 0
        self.headers: Headers = ()  # of the response
        self.attempts: list[Attempt] = []

    def send(self, message: AsgiMessage) -> Awaitable[None]:  # not async: InflightRequest.push needs the result's type
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-berth-captured", b"1")]}
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.response.add(message.get("body", b""))
        return self._send(message)

    def sent(self, replica: str, request: UpstreamRequest, headers: Mapping[str, str]) -> None:
        """To an engine."""
        given = {"content-type": request.content_type, **headers}
        pairs = [(name.encode(), value.encode()) for name, value in given.items()]
        attempt = Attempt(replica, request.path, pairs, self._take)
        attempt.asked.add(request.body)
        self.attempts = [*self.attempts[: _MOST_ATTEMPTS - 1], attempt]

    def answered(self, status: int, headers: Mapping[bytes, bytes], body: bytes = b"") -> Tape:
        """By the last of these engines. Returns where the rest of the body goes."""
        attempt = self.attempts[-1]
        attempt.status, attempt.response_headers = status, tuple(headers.items())
        attempt.answer.add(body)
        return attempt.answer

    def _take(self, wanted: int) -> int:
        given = self._room(wanted)
        self.held_bytes += given
        return given

    def messages(self, redactor: Redactor) -> tuple[Message, Message | None, tuple[CapturedAttempt, ...]]:
        """The client's request and response, and the attempts, without secrets."""
        left = capture.REQUEST_BYTES

        def message(line: str, headers: Headers, tape: Tape) -> Message:
            nonlocal left
            body = shown_body(tape, redactor, min(left, capture.PART_BYTES))
            left = max(left - len(body), 0)
            return Message(line=line, headers=shown_headers(headers, redactor), body=body, size=tape.size)

        path = redactor.text(self._scope["path"]) + (f"?{MASK}" if self._scope.get("query_string") else "")
        request = message(f"{self._scope['method']} {path}", self._scope["headers"], self.body)
        response = message(str(self.status), self.headers, self.response) if self.status else None
        attempts = tuple(
            CapturedAttempt(
                replica=one.replica,
                request=message(f"POST {one.path}", one.sent_headers, one.asked),
                response=message(str(one.status), one.response_headers, one.answer) if one.status else None,
            )
            for one in self.attempts
        )
        return request, response, attempts


def shown_headers(headers: Headers, redactor: Redactor) -> tuple[tuple[str, str], ...]:
    shown = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    return tuple((name, MASK if is_secret(name) else redactor.text(value)) for name, value in shown)


def shown_body(tape: Tape, redactor: Redactor, most: int) -> str:
    """As text without secrets and media. Binary data is named by its size and digest alone."""
    data = bytes(tape.kept)
    is_cut = tape.size > len(data)
    try:
        text = data.decode("utf-8", "ignore" if is_cut else "strict")
    except UnicodeDecodeError:
        return f"[{tape.size} bytes, not text, {_digest(data)}]"
    if is_cut:  # in the middle of a word, which may be a secret: its rest would not be recognized
        text = text.rstrip(_OF_WORDS)
    text = redactor.text(_MEDIA.sub(_as_digest, text))
    return text[:most] + (f"\n[cut: {tape.size} bytes in all]" if is_cut or len(text) > most else "")


def _as_digest(media: re.Match[str]) -> str:
    kind, data = media[1] or "base64", media[2]
    return f"[{kind}, {len(data) * 3 // 4} bytes, {_digest(data.encode())}]"


def _digest(data: bytes) -> str:
    return f"sha256 {hashlib.sha256(data).hexdigest()[:16]}"
