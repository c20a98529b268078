import httpx
import orjson
import pytest
from huggingface_hub.errors import GenerationError, IncompleteGenerationError, OverloadedError, TextGenerationError
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import errors
from berth.apis.tgi.response import response_of
from berth.canonical import Json
from berth.sse import DONE, comment
from tests.apis.tgi.judge import USAGE, encoder, ending, events, frame, heard, request, told, usage_frame

ODD = 'a\u2028b\u2029c\x85d\ne\x0bf\x1c "quoted" back\\slash ü'  # lines end at some of these for the client


def test_stream_has_one_event_per_token_and_a_last_one() -> None:
    stream = encoder()
    written = [stream.feed(feed) for feed in (frame("Hel"), frame("lo"), frame("", "length"), usage_frame(), DONE)]

    assert [data.count(b"\n\n") for data in written] == [1, 1, 0, 0, 1]
    parts = heard(b"".join(written))
    assert told(parts) == {"text": "Hello", "generated_text": "Hello"}
    assert [part.index for part in parts] == [1, 2, 3]
    assert [part.token.special for part in parts] == [False, False, True]
    assert parts[-1].details is None


def test_last_event_has_details_on_request() -> None:
    logprobs = {"tokens": ["Hel", "lo"], "token_logprobs": [-0.5, None], "top_logprobs": [], "text_offset": [0, 3]}
    parts = heard(encoder(details=True, seed=4).feed(frame("Hello", logprobs=logprobs) + ending()))

    assert [(part.token.text, part.token.logprob) for part in parts] == [("Hel", -0.5), ("lo", 0.0), ("", 0.0)]
    details = parts[-1].details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.input_length, details.seed) == (
        "eos_token",
        5,
        3,
        4,
    )


@pytest.mark.parametrize(
    ("reason", "more", "expected"),
    [
        ("length", {}, "length"),
        ("stop", {}, "eos_token"),
        ("stop", {"stop_reason": 2}, "eos_token"),
        ("stop", {"matched_stop": 2}, "eos_token"),
        ("stop", {"stop_reason": "END"}, "stop_sequence"),
        ("stop", {"matched_stop": "END"}, "stop_sequence"),
    ],
)
def test_finish_reason_is_tgis(reason: str, more: Json, expected: str) -> None:
    *_, last = events(encoder(details=True).feed(frame("a") + ending(reason, **more)))

    assert last["details"]["finish_reason"] == expected


def test_full_text_includes_the_prompt_and_tokens_do_not() -> None:
    parts = heard(encoder(inputs='Say "x": ', return_full_text=True).feed(frame("y") + ending()))

    assert told(parts) == {"text": "y", "generated_text": 'Say "x": y'}


@pytest.mark.parametrize("text", ["a", " token", ODD, "\n", "<&>", "🦊"])
def test_template_and_parser_write_the_same_bytes(text: str) -> None:
    quick = encoder()
    quick.feed(frame("learn"))

    (templateed,), (parsed,) = events(quick.feed(frame(text))), events(encoder().feed(frame(text)))

    assert templateed == {**parsed, "index": 2}
    assert parsed["token"]["text"] == text


def test_escapes_unicode_line_ends() -> None:
    parts = heard(encoder(inputs=ODD, return_full_text=True, details=True).feed(frame(ODD) + ending()))

    assert told(parts) == {"text": ODD, "generated_text": ODD + ODD}


def test_accepts_many_frames_and_comments_at_once() -> None:
    frames = comment("berth moved a -> b") + b"".join(frame(str(number)) for number in range(20)) + comment("x")

    assert told(heard(encoder().feed(frames + ending())))["text"] == "".join(map(str, range(20)))


@pytest.mark.parametrize(
    ("error", "begun", "expected"),
    [
        (errors.UpstreamError("boom"), False, GenerationError),
        (errors.OverloadedError("full"), False, OverloadedError),
        (errors.UpstreamError("cut\u2028here"), True, IncompleteGenerationError),
        (errors.ApiError("why"), False, GenerationError),
        (errors.NotReadyError("loading"), False, TextGenerationError),
    ],
)
def test_failed_stream_raises_in_the_client(
    error: errors.ApiError, begun: bool, expected: type[TextGenerationError]
) -> None:
    stream = encoder()
    written = stream.feed(frame("a")) if begun else b""

    with pytest.raises(expected, match=error.message[:3]):
        heard(written + stream.fail(error))
    assert stream.fail(error) == stream.heartbeat("late") == stream.feed(DONE) == b""


def test_client_ignores_heartbeats() -> None:
    stream = encoder()
    written = stream.heartbeat("1 in front") + stream.feed(frame("a")) + stream.heartbeat("x") + stream.feed(ending())

    assert told(heard(written))["text"] == "a"
    assert stream.heartbeat("late") == stream.fail(errors.UpstreamError("late")) == b""


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8),
    st.lists(st.integers(1, 4), max_size=8),
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_any_stream_equals_the_non_streaming_response(
    texts: list[str], sizes: list[int], reason: str, details: bool
) -> None:
    frames = [*(frame(text) for text in texts), frame("", reason), usage_frame(), DONE]
    stream = encoder(details=details)
    written = b""
    while frames:
        size = sizes.pop() if sizes else 1
        written += stream.feed(b"".join(frames[:size]))
        frames = frames[size:]
    choice = {"text": "".join(texts), "finish_reason": reason}
    whole = response_of(request(stream=False, details=details), {"choices": [choice], "usage": USAGE})

    parts = heard(written)
    assert told(parts) == {"text": whole["generated_text"], "generated_text": whole["generated_text"]}
    assert written.count(b'"special":true') == 1
    if details:
        told_details = orjson.loads(orjson.dumps(events(written)[-1]["details"]))
        assert (told_details["finish_reason"], told_details["generated_tokens"]) == (
            whole["details"]["finish_reason"],
            whole["details"]["generated_tokens"],
        )


def test_official_client_and_judge_read_the_same_lines() -> None:
    assert list(httpx.Response(200, content="a\u2028b".encode()).iter_lines()) == ["a", "b"]
