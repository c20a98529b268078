"""What is kept of a request that is captured."""

import base64
import hashlib
import os

import pytest
from starlette.types import Message as AsgiMessage

from berth.canonical import UpstreamRequest
from berth.ipc.capture import PART_BYTES, REQUEST_BYTES
from berth.redaction import MASK, Redactor
from berth.router.exchange.recording import TAPE_BYTES, Recording, Tape, shown_body, shown_headers

PLAIN = Redactor()
SCOPE = {"method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": [(b"host", b"box")]}


def everything(wanted: int) -> int:
    return wanted


def tape_of(*parts: bytes) -> Tape:
    tape = Tape(everything)
    for part in parts:
        tape.add(part)
    return tape


async def nowhere(message: AsgiMessage) -> None:
    pass


def test_a_tape_keeps_the_beginning_and_counts_the_rest() -> None:
    tape = tape_of(b"x" * (TAPE_BYTES - 1), b"abc", b"def")
    assert (len(tape.kept), bytes(tape.kept[-2:]), tape.size) == (TAPE_BYTES, b"xa", TAPE_BYTES + 5)


def test_a_tape_takes_no_more_memory_than_there_is() -> None:
    left = 5

    def room(wanted: int) -> int:
        nonlocal left
        given = min(wanted, left)
        left -= given
        return given

    tapes = Tape(room), Tape(room)
    for tape in tapes:
        tape.add(b"1234")
        tape.add(b"5678")
    assert [bytes(tape.kept) for tape in tapes] == [b"12345", b""]
    assert left == 0


def test_media_is_replaced_by_its_size_and_digest() -> None:
    media = base64.b64encode(os.urandom(3000)).decode()
    digest = hashlib.sha256(media.encode()).hexdigest()[:16]
    text = f'{{"url": "data:image/png;base64,{media}", "audio": "{media}", "short": "aGVsbG8="}}'

    shown = shown_body(tape_of(text.encode()), PLAIN, PART_BYTES)

    assert shown == (
        f'{{"url": "[image/png, 3000 bytes, sha256 {digest}]", "audio": "[base64, 3000 bytes, sha256 {digest}]", '
        '"short": "aGVsbG8="}'
    )


def test_binary_data_is_left_out() -> None:
    shown = shown_body(tape_of(b"RIFF\xff\xfe\x00audio"), PLAIN, PART_BYTES)
    assert shown.startswith("[12 bytes, not text, sha256 ")


def test_a_secret_at_the_cut_is_not_shown_in_part() -> None:
    key = "sk-abcdefghijklmnop"
    for kept in (1, 3, 9, len(key) - 1):
        tape = tape_of(b" " * (TAPE_BYTES - kept), f"{key} and more".encode())
        shown = shown_body(tape, PLAIN, PART_BYTES)
        assert "sk-" not in shown
        assert f"[cut: {tape.size} bytes in all]" in shown
    assert len(shown_body(tape_of(b"x y " * 99), PLAIN, 100)) < 150


def test_a_character_at_the_cut_is_left_out() -> None:
    tape = tape_of(b" " * (TAPE_BYTES - 1), "€".encode())
    assert "\ufffd" not in shown_body(tape, PLAIN, TAPE_BYTES)
    assert "not text" not in shown_body(tape, PLAIN, TAPE_BYTES)


def test_headers_that_hold_secrets_keep_their_names() -> None:
    headers = [
        (b"Authorization", b"Bearer x"),
        (b"cookie", b"a=b"),
        (b"x-note", b"sk-abcdefghijkl"),
        (b"accept", b"*/*"),
    ]
    shown = shown_headers(headers, PLAIN)
    assert shown == (("authorization", MASK), ("cookie", MASK), ("x-note", f"sk-{MASK}"), ("accept", "*/*"))


@pytest.mark.anyio
async def test_all_of_a_request_fits_into_one_message_to_control() -> None:
    recording = Recording({**SCOPE, "query_string": b"api_key=s3cret-value"}, nowhere, everything)
    recording.body.add(b"word " * (TAPE_BYTES // 5))
    for number in range(9):
        recording.sent(f"chat-{number}", UpstreamRequest(path="/v1/x", body=b"word " * 90_000), {"x-request-id": "1"})
        recording.answered(200, {b"content-type": b"text/plain"}, b"word " * 90_000)
    await recording.send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await recording.send({"type": "http.response.body", "body": b"done"})

    request, response, attempts = recording.messages(PLAIN)

    assert request.line == f"POST /v1/chat/completions?{MASK}"
    assert request.size == len(recording.body.kept) == TAPE_BYTES - 1
    assert response is not None
    assert (response.line, response.headers[-1]) == ("200", ("x-berth-captured", "1"))
    assert [one.replica for one in attempts] == ["chat-0", "chat-1", "chat-2", "chat-8"]  # the first and the last
    bodies = [request.body, response.body, *(one.request.body for one in attempts)]
    bodies += [one.response.body for one in attempts if one.response]
    assert sum(map(len, bodies)) < REQUEST_BYTES + 1000
