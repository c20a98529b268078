import pytest

from berth.sim.dialect import Response
from berth.sim.faults.active import Effects
from berth.sim.http.response_writer import Request, ResponseWriter, first_long_character

pytestmark = pytest.mark.anyio


class Tape:
    """Keeps what is written, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.end = ""

    async def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.end = "closed"

    def reset(self) -> None:
        self.end = "reset"


def writer(tape: Tape, *, method: str = "GET", keep_alive: bool = True, chunks: bool = True) -> ResponseWriter:
    request = Request(method=method, path="/", headers={}, body=b"", keep_alive=keep_alive, chunks=chunks)
    return ResponseWriter(tape, request, vary=True)


async def test_writes_the_engines_headers_in_order() -> None:
    tape = Tape()
    await writer(tape, keep_alive=False).send(Response(status=418, body=b"{}", headers=(("allow", "GET"),)))
    head, _, body = tape.data.partition(b"\r\n\r\n")
    names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert names == [b"date", b"server", b"content-length", b"allow", b"content-type", b"vary", b"connection"]
    assert (head.split(b"\r\n")[0], body, tape.end) == (b"HTTP/1.1 418 I'm a Teapot", b"{}", "closed")


async def test_head_request_gets_no_body() -> None:
    tape = Tape()
    await writer(tape, method="HEAD").send(Response(status=599, body=b"{}"))
    assert tape.data.startswith(b"HTTP/1.1 599 \r\n")
    assert tape.data.endswith(b"\r\n\r\n")
    assert tape.end == ""


async def test_streams_one_chunk_per_frame() -> None:
    tape = Tape()
    one = writer(tape)
    assert not one.begun
    await one.start("text/event-stream")
    await one.frame(b"data: 1\n\n")
    await one.finish()
    assert tape.data.endswith(b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n")
    assert one.begun


async def test_sends_buffered_frames_at_the_end() -> None:
    tape = Tape()
    one = writer(tape, chunks=False)
    one.effects = Effects(join_frames=2, split_bytes=4)
    for data in (b"abc", b"def", b"g"):
        await one.frame(data)
    assert tape.data == b"abcd"
    await one.finish()
    assert (tape.data, tape.end) == (b"abcdefg", "")


async def test_half_chunk_without_chunked_encoding_is_half_the_data() -> None:
    tape = Tape()
    await writer(tape, chunks=False).half_chunk(b"abcd")
    assert (tape.data, tape.end) == (b"ab", "closed")


async def test_slow_drip_writes_all_data() -> None:
    tape = Tape()
    one = writer(tape)
    one.effects = Effects(drip_s=0.0)
    await one.frame(b"abc")
    assert tape.data == b"3\r\nabc\r\n"


@pytest.mark.parametrize(("text", "at"), [("café", 3), ("cafe", -1), ("🦊", 0)])
async def test_finds_characters_of_several_bytes(text: str, at: int) -> None:
    assert first_long_character(text.encode()) == at
