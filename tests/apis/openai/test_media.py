"""Audio, images and moderations, parsed as far as routing needs."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.openai.media import IMAGES, SPEECH, OpenaiForm, OpenaiMedia
from berth.canonical import Operation
from berth.dialects.media import media_request
from berth.errors import InvalidRequestError
from tests.apis.openai.test_multipart import form

TRANSCRIPTIONS = OpenaiForm("/v1/audio/transcriptions")
SPEAKER = OpenaiMedia("/v1/audio/speech", SPEECH, "input")
PAINTER = OpenaiMedia("/v1/images/generations", IMAGES, "prompt")
HEADERS = {b"content-type": b"multipart/form-data; boundary=edge"}
FILE = ("file", b'; filename="a.wav"', b"RIFF\x00\xff\r\n--")


@given(st.binary(max_size=300), st.text("abc:/-é", min_size=1, max_size=40))
def test_replaces_only_the_models_name(content: bytes, served_name: str) -> None:
    file = ("file", b'; filename="a.wav"', content.replace(b"--edge", b""))
    request = TRANSCRIPTIONS.parse(form(("model", b"", b"whisper"), file, ("language", b"", b"en")), HEADERS)
    sent = media_request(request, served_name)

    assert (request.model, request.operation, sent.path) == ("whisper", Operation.MEDIA, "/v1/audio/transcriptions")
    assert sent.body == form(("model", b"", served_name.encode()), file, ("language", b"", b"en"))
    assert sent.content_type == HEADERS[b"content-type"].decode()


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([FILE], "model"),
        ([("model", b"", b"m")], "file"),
        ([FILE, ("model", b"", b"m"), ("model", b"", b"n")], "model"),
        ([FILE, ("model", b"", b" ")], "model"),
        ([FILE, ("model", b"", b"\xff")], "model"),
        ([FILE, ("model", b'; filename="m"', b"m")], "model"),
    ],
)
def test_rejects_invalid_form_field_by_name(parts: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        TRANSCRIPTIONS.parse(form(*parts), HEADERS)

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("wishes", "stream"), [([], False), ([b"False"], False), ([b"true"], True), ([b"1", b"0"], False)]
)
def test_last_stream_field_wins(wishes: list[bytes], stream: bool) -> None:
    request = TRANSCRIPTIONS.parse(
        form(FILE, ("model", b"", b"m"), *(("stream", b"", wish) for wish in wishes)), HEADERS
    )

    assert (request.model, request.stream) == ("m", stream)


@pytest.mark.parametrize(("wish", "stream"), [("sse", True), ("audio", False), (None, False)])
def test_speech_may_be_streamed_as_events(wish: str | None, stream: bool) -> None:
    document = {"model": "tts", "input": "hello", "stream_format": wish}

    assert SPEAKER.parse(orjson.dumps(document)).stream is stream


def test_stream_format_affects_only_speech() -> None:
    document = {"model": "m", "prompt": "x", "stream_format": "sse"}

    assert PAINTER.parse(orjson.dumps(document)).stream is False


def test_a_content_type_must_be_ascii() -> None:
    with pytest.raises(InvalidRequestError, match="ASCII"):
        TRANSCRIPTIONS.parse(
            form(FILE, ("model", b"", b"m")), {b"content-type": HEADERS[b"content-type"] + b"; x=\xe9"}
        )


def test_json_keeps_its_fields() -> None:
    document = {"model": "tts", "input": "hello", "voice": "alloy", "own": [1]}
    sent = media_request(SPEAKER.parse(orjson.dumps(document)), "served")

    assert orjson.loads(sent.body) == {**document, "model": "served"}
    assert (sent.path, sent.content_type) == ("/v1/audio/speech", "application/json")


@pytest.mark.parametrize(
    ("api", "document", "param"),
    [
        (SPEAKER, {"model": "m"}, "input"),
        (SPEAKER, {"model": 7, "input": "x"}, "model"),
        (SPEAKER, {"model": "m", "input": "x", "stream": True}, "stream"),
        (SPEAKER, {"model": "m", "input": "x", "stream_format": 7}, "stream_format"),
        (PAINTER, {"model": "m", "prompt": "x", "stream": True}, "stream"),
        (PAINTER, {"model": "m", "prompt": "x", "n": 0}, "n"),
    ],
)
def test_rejects_invalid_json_field_by_name(api: OpenaiMedia, document: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        api.parse(orjson.dumps(document))

    assert caught.value.param == param
