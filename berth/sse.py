"""Server-sent events, sans-io: chunks of bytes in, complete frames out.

A frame is the bytes of one event up to and including the blank line that ends it
(https://html.spec.whatwg.org/multipage/server-sent-events.html). Frames are forwarded unchanged, without a copy beyond
the split.
"""

DONE = b"data: [DONE]\n\n"


class FrameSplitter:
    """Splits a byte stream into SSE frames and keeps an incomplete frame until its end arrives.

    Lines may end in LF, CR or CRLF, also mixed. TensorRT-LLM writes a space before the blank line, which is part of its
    `data:` line.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        # After the last complete frame. Not empty at the end of a truncated stream.
        self.pending = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes, each with its blank line."""
        if self.pending or b"\r" in chunk:
            return self._append(chunk)
        if chunk.endswith(b"\n\n") and chunk.find(b"\n\n") == len(chunk) - 2:
            return [chunk]
        *complete, rest = chunk.split(b"\n\n")
        self.pending += rest
        return [frame + b"\n\n" for frame in complete if frame]

    def _append(self, chunk: bytes) -> list[bytes]:
        """Pending bytes are not scanned again: a long frame in many pieces takes linear time."""
        held = b""
        if self.pending.endswith(b"\r"):
            chunk = b"\r" + chunk
            del self.pending[-1:]
        if b"\r" in chunk:
            if chunk.endswith(b"\r"):  # its LF may still come
                chunk, held = chunk[:-1], b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        scanned = max(len(self.pending) - 1, 0)
        self.pending += chunk
        complete: list[bytearray] = []
        if self.pending.find(b"\n\n", scanned) >= 0:
            *complete, self.pending = self.pending.split(b"\n\n")
        self.pending += held
        return [bytes(frame) + b"\n\n" for frame in complete if frame]


def frames_of(piece: bytes) -> list[bytes]:
    """Splits bytes that consist of complete frames, as decoders return them."""
    return [frame + b"\n\n" for frame in piece.split(b"\n\n") if frame]


def data_of(frame: bytes) -> bytes | None:
    """The value of a frame's `data:` lines, joined by line feeds. None for a frame without data (a comment)."""
    if frame.startswith(b"data: ") and frame.count(b"\n") == 2:
        return frame[6:-2].strip()
    values = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(values).strip() if values else None


def frame(data: bytes, *, event: bytes | None = None) -> bytes:
    """One frame. `data` must not contain line feeds (JSON from orjson does not)."""
    head = b"event: " + event + b"\n" if event else b""
    return head + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A comment frame, which clients ignore: for heartbeats and notes to human readers."""
    return b": " + text.replace("\n", " ").encode() + b"\n\n"
