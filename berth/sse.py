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
        self.pending = b""  # after the last complete frame: not empty at the end of a stream means that it was cut

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes, each with its blank line."""
        data = self.pending + chunk if self.pending else chunk
        if b"\r" in data:
            return self._feed_crlf(data)
        if data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2:
            self.pending = b""
            return [data]
        *whole, self.pending = data.split(b"\n\n")
        return [frame + b"\n\n" for frame in whole if frame]

    def _feed_crlf(self, data: bytes) -> list[bytes]:
        held = b""
        if data.endswith(b"\r"):  # its LF may still come
            data, held = data[:-1], b"\r"
        *whole, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
        self.pending = rest + held
        return [frame + b"\n\n" for frame in whole if frame]


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
