"""The official client's audio, images and moderations, over a router in front of scripted engines."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from berth.sse import DONE
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    Step,
    answer,
    chunk,
    error_answer,
    json_answer,
    sse,
    stream_head,
)

SOUND = ("a.wav", b"RIFF\x00\xff\r\n\r\n--x" * 1000, "audio/wav")
PICTURE = {"created": 1, "data": [{"b64_json": "QUJD"}]}


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router_fixture.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


def test_a_file_is_transcribed_by_the_model_of_an_alias(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(json_answer({"text": "hello"}))
    router_fixture.second.answers(json_answer({"text": "hello"}))

    told = client.audio.transcriptions.create(model="gpt-4o-mini", file=SOUND, language="en")

    asked = (*router_fixture.first.requests, *router_fixture.second.requests)[0]
    assert told.text == "hello"
    assert asked.path == "/v1/audio/transcriptions"
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert SOUND[1] in asked.body
    assert b"gpt-4o-mini" not in asked.body


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word about translations
def test_plain_text_comes_back_as_plain_text(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(answer(b"1\n00:00 hello", headers="content-type: text/plain; charset=utf-8\r\n"))

    told: object = client.audio.translations.create(model="solo", file=SOUND, response_format="srt")
    raw = httpx.post(
        f"{router_fixture.url}/v1/audio/translations", files={"file": SOUND}, data={"model": "solo"}, trust_env=False
    )

    assert told == raw.text == "1\n00:00 hello"
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["x-request-id"]
    assert router_fixture.first.requests[0].path == "/v1/audio/translations"


def test_speech_is_bytes(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(answer(b"ID3\x00\xff", headers="content-type: audio/mpeg\r\n"))

    told = client.audio.speech.create(model="solo", voice="alloy", input="hello")

    assert told.content == b"ID3\x00\xff"
    assert told.response.headers["content-type"] == "audio/mpeg"


def test_images_and_moderations_are_json(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(json_answer(PICTURE))
    picture = client.images.generate(model="solo", prompt="a fox")
    router_fixture.first.answers(json_answer({"id": "m", "model": "solo", "results": []}))
    judged = client.moderations.create(model="solo", input="hello")

    assert picture.data is not None
    assert picture.data[0].b64_json == "QUJD"
    assert judged.results == []


def test_failure_falls_back(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(RESET)
    router_fixture.second.answers(json_answer({"text": "hello"}))
    told = client.audio.transcriptions.create(model="chat", file=SOUND)

    assert told.text == "hello"
    assert router_fixture.first.requests[0].body == router_fixture.second.requests[0].body


@pytest.mark.parametrize("status", [404, 405, 501])
def test_error_names_engines_without_the_path(
    router_fixture: RouterFixture, client: openai.OpenAI, status: int
) -> None:
    router_fixture.first.answers(error_answer("Not Found", status=status))

    with pytest.raises(openai.BadRequestError, match=r"solo.*/v1/audio/speech") as caught:
        client.audio.speech.create(model="solo", voice="alloy", input="hello")
    assert caught.value.param == "model"


def test_engine_rejection_and_silence(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(error_answer("'voice' is unknown", status=400))
    with pytest.raises(openai.BadRequestError, match="voice"):
        client.audio.speech.create(model="solo", voice="alloy", input="hello")
    router_fixture.first.answers(answer(b"", headers="content-type: audio/mpeg\r\n"))
    with pytest.raises(openai.InternalServerError, match="empty"):
        client.audio.speech.create(model="solo", voice="alloy", input="hello")


def test_tensorrt_llm_supports_no_media(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="TensorRT-LLM does not serve audio"):
        client.images.generate(model="strict", prompt="a fox")
    assert router_fixture.strict.requests == []


@pytest.mark.parametrize("error", [{"error": {"message": "boom"}}, {"object": "error", "message": "boom"}])
def test_error_with_status_200_is_an_engine_failure(
    router_fixture: RouterFixture, client: openai.OpenAI, error: dict[str, object]
) -> None:
    router_fixture.first.answers(json_answer(error))

    with pytest.raises(openai.InternalServerError, match="boom"):
        client.images.generate(model="solo", prompt="a fox")


def test_rejects_file_over_the_limit(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="BERTH_MAX_BODY") as caught:
        client.audio.transcriptions.create(model="solo", file=("a.wav", bytes(1 << 20)))

    assert caught.value.status_code == 413
    assert router_fixture.first.requests == []


def test_rejects_invalid_forms_and_models(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nix"):
        client.audio.transcriptions.create(model="nix", file=SOUND)
    plain = httpx.post(f"{router_fixture.url}/v1/audio/transcriptions", content=b"{}", trust_env=False)
    assert plain.status_code == 400
    assert "multipart/form-data" in plain.json()["error"]["message"]


def part(text: str = "", finish: str | None = None, **fields: Any) -> bytes:
    """A chunk of a recording's text, as vLLM writes it."""
    choice = {"delta": {"content": text}} | ({"finish_reason": finish, "stop_reason": None} if finish else {})
    head = {"id": "transcribe-1", "object": "transcription.chunk", "created": 1, "model": "solo"}
    return sse({**head, "choices": [choice], **fields})


USAGE = part(choices=[], usage={"prompt_tokens": 30, "total_tokens": 32, "completion_tokens": 2})
LINES = (part("One"), part(" two.", "stop"), part(" Three"), part("", "stop"), USAGE, DONE)


def stream_of(*frames: bytes, end: Step = LAST_CHUNK) -> tuple[Step, ...]:
    return (stream_head(), *(chunk(frame) for frame in frames), end)


def heard(client: openai.OpenAI, model: str, events: list[Any], began: threading.Event | None = None) -> None:
    """Adds the events to those before, up to the error that ends them; with the first one it has begun."""
    for event in client.audio.transcriptions.create(model=model, file=SOUND, stream=True):
        events.append(event)
        if began is not None:
            began.set()


def tokens(router_fixture: RouterFixture) -> float:
    """Of the model "solo", so far."""
    lines = httpx.get(f"{router_fixture.url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("berth_tokens_total{") and 'model="solo"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_a_transcription_is_streamed_as_the_clients_events(
    router_fixture: RouterFixture, client: openai.OpenAI
) -> None:
    router_fixture.first.answers(*stream_of(*LINES))
    before = tokens(router_fixture)
    events: list[Any] = []

    heard(client, "solo", events)

    *deltas, done = events
    assert [event.delta for event in deltas] == ["One", " two.", " Three"]
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert (done.type, done.text) == ("transcript.text.done", "One two. Three")
    assert (done.usage.input_tokens, done.usage.output_tokens) == (30, 2)
    assert tokens(router_fixture) == before + 32
    assert b'name="stream_include_usage"\r\n\r\ntrue\r\n' in router_fixture.first.requests[0].body


def test_translations_are_streamed_too_and_end_with_done(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(*stream_of(*LINES))
    raw = httpx.post(
        f"{router_fixture.url}/v1/audio/translations",
        files={"file": SOUND},
        data={"model": "solo", "stream": "true"},
        trust_env=False,
    )

    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.content.endswith(b"\n\n" + DONE)
    assert raw.text.count("transcript.text.delta") == 3


def test_events_of_the_server_pass_unchanged(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    own = [{"type": "transcript.text.delta", "delta": "hi"}, {"type": "transcript.text.done", "text": "hi"}]
    router_fixture.first.answers(*stream_of(*map(sse, own)))
    events: list[Any] = []

    heard(client, "solo", events)

    assert [event.to_dict() for event in events] == own


BROKEN: list[tuple[Step, ...]] = [
    (RESET,),
    stream_of(end=CLOSE),
    stream_of(end=LAST_CHUNK),
    stream_of(sse({"error": {"message": "boom", "type": "InternalServerError", "code": 500}}), DONE),
    stream_of(DONE),
    stream_of(b"data: {\n\n"),
]


@pytest.mark.parametrize("steps", BROKEN)
def test_failure_before_the_first_text_falls_back(
    router_fixture: RouterFixture, client: openai.OpenAI, steps: tuple[Step, ...]
) -> None:
    router_fixture.first.answers(*steps)
    router_fixture.second.answers(*stream_of(*LINES))
    events: list[Any] = []

    heard(client, "chat", events)

    assert events[-1].text == "One two. Three"
    assert [len(router_fixture.first.requests), len(router_fixture.second.requests)] == [1, 1]
    assert b"stream_include_usage" not in router_fixture.second.requests[0].body


OWN = sse({"type": "transcript.text.delta", "delta": "One"})
CUT: list[tuple[Step, ...]] = [
    stream_of(LINES[0], end=RESET),
    stream_of(*LINES[:2]),  # the first part of the recording is complete, and no more
    stream_of(*LINES[:2], end=CLOSE),
    stream_of(*LINES[:5]),
    stream_of(LINES[0], sse({"error": {"message": "boom", "type": "BadRequestError", "code": 400}}), DONE),
    stream_of(LINES[0], DONE),
    stream_of(OWN, DONE),
]


@pytest.mark.parametrize("steps", CUT)
def test_cut_or_broken_stream_ends_with_an_error(
    router_fixture: RouterFixture, client: openai.OpenAI, steps: tuple[Step, ...]
) -> None:
    began = threading.Event()
    router_fixture.first.answers(*steps[:2], began, *steps[2:])
    events: list[Any] = []

    with pytest.raises(openai.APIError, match="incomplete"):
        heard(client, "solo", events, began)

    assert events[0].delta == "One"
    assert {event.type for event in events} == {"transcript.text.delta"}


def test_non_streaming_response_to_streamed_request_falls_back(
    router_fixture: RouterFixture, client: openai.OpenAI
) -> None:
    router_fixture.first.answers(json_answer({"text": "hello"}))
    router_fixture.second.answers(*stream_of(*LINES))
    events: list[Any] = []

    heard(client, "chat", events)
    with pytest.raises(openai.BadRequestError, match="does not stream") as caught:
        heard(client, "solo", events)

    assert events[-1].text == "One two. Three"
    assert caught.value.param == "stream"


def test_rejection_before_the_stream_keeps_its_status(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    router_fixture.first.answers(error_answer("verbose_json format doesn't support streaming case", status=400))

    with pytest.raises(openai.BadRequestError, match="verbose_json"):
        heard(client, "solo", [])


def test_speech_is_streamed_as_the_servers_events(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    sound = sse({"type": "speech.audio.delta", "audio": "QUJD"})
    last = sse({"type": "speech.audio.done", "usage": {"input_tokens": 4, "output_tokens": 9, "total_tokens": 13}})
    router_fixture.first.answers(*stream_of(sound, last))
    before = tokens(router_fixture)

    told = client.audio.speech.create(model="solo", voice="alloy", input="hello", stream_format="sse")

    assert told.content == sound + last + DONE
    assert tokens(router_fixture) == before + 13
    assert router_fixture.first.requests[0].json["stream_format"] == "sse"


def test_cut_speech_ends_with_an_error(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    sound, began = sse({"type": "speech.audio.delta", "audio": "QUJD"}), threading.Event()
    head, first, end = stream_of(sound)
    router_fixture.first.answers(head, first, began, end)
    content = b""

    with client.audio.speech.with_streaming_response.create(
        model="solo", voice="alloy", input="hello", stream_format="sse"
    ) as told:
        for piece in told.iter_bytes():
            content += piece
            began.set()

    assert content.startswith(sound + b'data: {"error":{"message":"The response is incomplete.')


def test_rejects_other_streams_with_the_field(router_fixture: RouterFixture, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model="solo", prompt="a fox", stream=True)
    assert caught.value.param == "stream"
    router_fixture.first.answers(answer(b"ID3", headers="content-type: audio/mpeg\r\n"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(model="solo", voice="alloy", input="hello", stream_format="sse")
    assert caught.value.param == "stream_format"
