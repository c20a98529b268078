"""A stream about audio is one of the official client's events, and never ends before it is complete."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionStreamEvent
from pydantic import TypeAdapter

from berth.canonical import Failure, FailureKind, InferenceRequest, Json, Media, Operation, Usage
from berth.dialects.base import Dialect, StreamDecoder
from berth.dialects.media import media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.vllm import VllmDialect
from berth.router.exchange.outcomes import ContinuationBlocker
from berth.router.forwarding.continuation import blocker, blocker_in
from berth.sse import DONE, data_of, frame, frames_of

EVENT: TypeAdapter[Any] = TypeAdapter(TranscriptionStreamEvent)
FORM = b'--edge\r\ncontent-disposition: form-data; name="model"\r\n\r\npublic\r\n--edge--\r\n'
START = FORM.index(b"public")
MEDIA = Media(
    path="/v1/audio/transcriptions",
    content_type="multipart/form-data; boundary=edge",
    form=FORM,
    model_start=START,
    model_end=START + len(b"public"),
)
REQUEST = InferenceRequest(operation=Operation.MEDIA, model="public", body={}, media=MEDIA, stream=True)
HEAD: Json = {"id": "transcribe-1", "object": "transcription.chunk", "created": 1, "model": "whisper"}
USAGE: Json = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}


def vllm(text: str, finish: str | None = None) -> bytes:
    choice: Json = {"delta": {"content": text}}
    return sent({**HEAD, "choices": [choice | ({"finish_reason": finish, "stop_reason": None} if finish else {})]})


def sglang(text: str | None, finish: str | None = None) -> bytes:
    delta = {"role": None, "content": text, "reasoning_content": None, "tool_calls": None}
    return sent({**HEAD, "choices": [{"delta": delta, "finish_reason": finish}], "usage": None})


def sent(document: Any) -> bytes:
    return frame(orjson.dumps(document))


def events(decoder: StreamDecoder, *frames: bytes) -> list[Any]:
    """As the official client reads them."""
    shown = []
    for one in frames:
        out = decoder.frame(one)
        assert isinstance(out, bytes)
        shown += frames_of(out)
    return [EVENT.validate_json(data_of(one) or b"", strict=True) for one in shown if one != DONE]


def decoder() -> MediaStreamDecoder:
    return MediaStreamDecoder(REQUEST, "public")


VLLM_FRAMES = (
    *(vllm("One"), vllm(" two.", "stop"), vllm(" Three"), vllm("", "stop")),
    *(sent({**HEAD, "choices": [], "usage": USAGE}), DONE),
)
SGLANG_FRAMES = (sglang("One"), sglang(" two. Three"), sglang(None, "stop"), DONE)


def test_converts_chunks_to_events() -> None:
    reader = decoder()

    *deltas, done = events(reader, *VLLM_FRAMES)

    assert [event.delta for event in deltas] == ["One", " two.", " Three"]
    assert (done.type, done.text) == ("transcript.text.done", "One two. Three")
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (3, 2, 5)
    assert reader.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert reader.end() is None


def test_omits_usage_if_the_engine_sends_none() -> None:
    *deltas, done = events(decoder(), *SGLANG_FRAMES)

    assert [event.delta for event in deltas] == ["One", " two. Three"]
    assert (done.text, done.usage) == ("One two. Three", None)


def test_silent_recording_has_empty_text() -> None:
    (done,) = events(decoder(), vllm("", "stop"), DONE)

    assert done.text == ""


DELTA: Json = {"type": "transcript.text.delta", "delta": "hi"}
LAST: Json = {
    "type": "transcript.text.done",
    "text": "hi",
    "usage": {"type": "tokens", "input_tokens": 7, "output_tokens": 1, "total_tokens": 8},
}
SOUND: Json = {"type": "speech.audio.delta", "audio": "QUJD"}


@pytest.mark.parametrize("ending", [(), (DONE,)])
@pytest.mark.parametrize(
    ("frames", "usage"),
    [
        ((sent(DELTA), b"event: x\n" + sent(LAST)), Usage(prompt_tokens=7, completion_tokens=1)),
        ((sent(DELTA), sent({**LAST, "usage": {"type": "duration", "seconds": 3}})), Usage()),
        ((sent(SOUND), b": waiting\n\n", sent({"type": "speech.audio.done"})), Usage()),
    ],
)
def test_openai_events_pass_unchanged(frames: tuple[bytes, ...], usage: Usage, ending: tuple[bytes, ...]) -> None:
    reader = decoder()

    assert [reader.frame(one) for one in (*frames, *ending)] == [*frames, *ending]
    assert reader.usage == usage
    assert reader.end() is None


def test_counts_that_are_no_numbers_of_tokens_become_0() -> None:
    reader = decoder()
    usage = {"type": "tokens", "input_tokens": -7, "output_tokens": 1}

    shown = reader.frame(sent({**LAST, "usage": usage}))

    assert shown == sent({**LAST, "usage": {**usage, "input_tokens": 0}})
    assert reader.usage == Usage(completion_tokens=1, implausible=True)


def test_drops_frames_after_done() -> None:
    reader = decoder()
    events(reader, *VLLM_FRAMES)

    assert [reader.frame(one) for one in (DONE, vllm("x"), b"data: \n\n")] == [b"", b"", b""]


@given(kept=st.integers(0, len(VLLM_FRAMES) - 1))
def test_truncated_chunks_are_a_failure(kept: int) -> None:
    """Not even behind the finish_reason of a part."""
    reader = decoder()
    events(reader, *VLLM_FRAMES[:kept])

    failure = reader.end()

    assert failure is not None
    assert failure.kind is FailureKind.ENGINE


def test_truncated_events_are_a_failure() -> None:
    reader = decoder()
    events(reader, sent(DELTA))

    assert reader.end() is not None
    assert isinstance(reader.frame(DONE), Failure)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (sent({"error": {"message": "boom", "type": "InternalServerError", "code": 500}}), FailureKind.ENGINE),
        (sent({"error": {"message": "too short", "type": "BadRequestError", "code": 400}}), FailureKind.CLIENT),
        (sent({"object": "error", "message": "boom", "type": "BadRequestError", "code": 500}), FailureKind.ENGINE),
        (sent({"type": "error", "message": "boom"}), FailureKind.ENGINE),
        (sent({"type": "error", "error": {"message": "boom"}}), FailureKind.ENGINE),
        (sglang("x", "abort"), FailureKind.ENGINE),
        (sent({**DELTA, "delta": 7}), FailureKind.ENGINE),
        (sent({**LAST, "text": None}), FailureKind.ENGINE),
        (sent({"type": "speech.audio.delta"}), FailureKind.ENGINE),
        (sent({**HEAD, "choices": [{"delta": {"content": 7}}]}), FailureKind.ENGINE),
        (sent([1]), FailureKind.ENGINE),
        (b"data: {\n\n", FailureKind.ENGINE),
        (DONE, FailureKind.ENGINE),
    ],
)
def test_invalid_event_is_a_failure(wrong: bytes, kind: FailureKind) -> None:
    failure = decoder().frame(wrong)

    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_media_streams_are_not_continued() -> None:
    reader = decoder()
    reader.keep()
    events(reader, *VLLM_FRAMES[:2])

    assert (blocker(REQUEST), blocker_in(reader.transcript())) == (
        ContinuationBlocker.MODALITY,
        ContinuationBlocker.BEGINNING,
    )


def fields(body: bytes) -> list[bytes]:
    """What stands between the boundaries."""
    return body.split(b"--edge")[1:-1]


def test_vllm_request_has_the_usage_field() -> None:
    wanted = VllmDialect().request(REQUEST, "served")

    usage, model = fields(wanted.body)
    assert usage == b'\r\ncontent-disposition: form-data; name="stream_include_usage"\r\n\r\ntrue\r\n'
    assert model.endswith(b"\r\n\r\nserved\r\n")
    assert wanted.path == MEDIA.path


@pytest.mark.parametrize("dialect", [SglangDialect(), OpenaiDialect()])
def test_other_engines_get_the_form_unchanged(dialect: Dialect) -> None:
    assert dialect.request(REQUEST, "served") == media_request(REQUEST, "served")


@pytest.mark.parametrize("dialect", [VllmDialect(), SglangDialect(), OpenaiDialect()])
def test_all_dialects_decode_to_the_same_events(dialect: Dialect) -> None:
    assert isinstance(dialect.stream(REQUEST, "m"), MediaStreamDecoder)
