"""Server-sent events and NDJSON, sans-io: bytes in, whole frames out, whatever the chunks were.

A frame is the bytes of one event up to and including the blank line that ends it
(https://html.spec.whatwg.org/multipage/server-sent-events.html). Frames are passed on as they came, so that
forwarding one costs no copy beyond the split.
"""

DONE = b"data: [DONE]\n\n"


class FrameSplitter:
    """Cuts a byte stream into SSE frames; keeps what is not complete yet.

    Lines may end in LF, CRLF or CR LF mixed; TensorRT-LLM writes a space before the blank line, which needs no
    care here because it is still part of its `data:` line.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        # After the last complete frame: not empty at the end of a stream means that it was cut.
        self.pending = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes, each with its blank line."""
        if self.pending or b"\r" in chunk:
            return self._put_together(chunk)
        if chunk.endswith(b"\n\n") and chunk.find(b"\n\n") == len(chunk) - 2:
            return [chunk]
        *whole, rest = chunk.split(b"\n\n")
        self.pending += rest
        return [frame + b"\n\n" for frame in whole if frame]

    def _put_together(self, chunk: bytes) -> list[bytes]:
        """What is pending is not looked at again: a long frame may come in many pieces."""
        held = b""
        if self.pending.endswith(b"\r"):
            chunk = b"\r" + chunk
            del self.pending[-1:]
        if b"\r" in chunk:
            if chunk.endswith(b"\r"):  # its LF may still come
                chunk, held = chunk[:-1], b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        seen = max(len(self.pending) - 1, 0)
        self.pending += chunk
        whole: list[bytearray] = []
        if self.pending.find(b"\n\n", seen) >= 0:
            *whole, self.pending = self.pending.split(b"\n\n")
        self.pending += held
        return [bytes(frame) + b"\n\n" for frame in whole if frame]


def frames_of(piece: bytes) -> list[bytes]:
    """The frames of a piece that is made of whole ones, as decoders leave them."""
    return [frame + b"\n\n" for frame in piece.split(b"\n\n") if frame]


class LineSplitter:
    """Cuts a byte stream into NDJSON lines (without their line feed); empty lines are skipped."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        *whole, self.pending = (self.pending + chunk).split(b"\n")
        return [line for line in whole if line.strip()]


def data_of(frame: bytes) -> bytes | None:
    """The value of a frame's `data:` lines, joined by line feeds; None for a frame that has none (a comment)."""
    if frame.startswith(b"data: ") and frame.count(b"\n") == 2:
        return frame[6:-2].strip()
    values = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(values).strip() if values else None


def frame(data: bytes, *, event: bytes | None = None) -> bytes:
    """One frame; `data` must be free of line feeds (JSON from orjson is)."""
    head = b"event: " + event + b"\n" if event else b""
    return head + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A comment frame: ignored by every client, good as a heartbeat and for the curious."""
    return b": " + text.replace("\n", " ").encode() + b"\n\n"
