import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import Failure, FailureKind, Json, Operation
from berth.dialects.base import Dialect, StreamDecoder
from berth.dialects.choices import expected_choices
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE, FrameSplitter, data_of
from tests.fakes.recordings import Recording, inference_request, recording, recordings

VLLM, SGLANG, TRTLLM = (DIALECTS[name] for name in (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM))
BROKEN = {
    "vllm/life/kill9_engine_stream",
    "vllm/life/sigterm_inflight_stream",
    "sglang/base/abort_stream_tail",
    "sglang/base/err_queue_full_stream",
}


def frames_of(stream: bytes) -> list[bytes]:
    return FrameSplitter().feed(stream)


def read(decoder: StreamDecoder, frames: list[bytes]) -> list[bytes | Failure]:
    """What comes out, up to and including a failure."""
    out: list[bytes | Failure] = []
    for frame in frames:
        out.append(decoder.frame(frame))
        if isinstance(out[-1], Failure):
            break
    return out


def dialect_of(seen: Recording) -> Dialect:
    return DIALECTS[DialectName(seen.name.split("/", maxsplit=1)[0])]


def decoded(seen: Recording, model: str = "tiny") -> tuple[list[Json], StreamDecoder]:
    """The chunks that a client would read, and the decoder after its end."""
    decoder = dialect_of(seen).stream(seen.request(), model)
    shown = b""
    for out in read(decoder, frames_of(seen.answer)):
        assert isinstance(out, bytes)
        shown += out
    data = [data_of(frame) for frame in frames_of(shown)]
    return [orjson.loads(item) for item in data if item not in (None, b"[DONE]")], decoder


def streams() -> list[Recording]:
    return [
        seen
        for engine in ("vllm", "sglang", "trtllm")
        for seen in recordings(engine)
        if seen.is_stream and seen.name not in BROKEN
    ]


def text_of(chunks: list[Json], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def chunks_in(seen: Recording) -> list[Json]:
    data = [data_of(frame) for frame in frames_of(seen.answer)]
    return [orjson.loads(item) for item in data if item not in (None, b"[DONE]")]


@pytest.mark.parametrize("seen", streams(), ids=lambda seen: seen.name)
def test_decodes_every_recorded_stream(seen: Recording) -> None:
    chunks, decoder = decoded(seen)

    for index in range(expected_choices(seen.request())):
        assert text_of(chunks, index) == text_of(chunks_in(seen), index)
    assert decoder.end() is None
    assert {chunk["model"] for chunk in chunks} == {"tiny"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len({chunk["object"] for chunk in chunks}) == 1


@pytest.mark.parametrize("seen", streams(), ids=lambda seen: seen.name)
def test_reads_usage_and_forwards_it_only_if_requested(seen: Recording) -> None:
    reported = [chunk["usage"] for chunk in chunks_in(seen) if chunk.get("usage")]
    chunks, decoder = decoded(seen)

    assert decoder.usage.completion_tokens == (reported[-1]["completion_tokens"] if reported else 0)
    assert bool([chunk for chunk in chunks if chunk.get("usage")]) is (bool(reported) and seen.request().include_usage)


@pytest.mark.parametrize("name", ["vllm/base/chat_stream", "vllm/base/chat_stream_unicode", "vllm/base/comp_stream"])
def test_ordinary_stream_stays_byte_for_byte(name: str) -> None:
    seen = recording(name)
    out = read(dialect_of(seen).stream(seen.request(), "tiny"), frames_of(seen.answer))

    assert b"".join(frame for frame in out if isinstance(frame, bytes)) == seen.answer


@given(data=st.data(), name=st.sampled_from([seen.name for seen in streams() if len(seen.answer) < 8000]))
def test_chunk_boundaries_do_not_matter(data: st.DataObject, name: str) -> None:
    seen = recording(name)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(seen.answer)), max_size=8)))
    splitter, decoder = FrameSplitter(), dialect_of(seen).stream(seen.request(), "tiny")
    out: list[bytes | Failure] = []
    for start, end in zip([0, *cuts], [*cuts, len(seen.answer)], strict=True):
        out += read(decoder, splitter.feed(seen.answer[start:end]))

    whole = read(dialect_of(seen).stream(seen.request(), "tiny"), frames_of(seen.answer))
    assert [item for item in out if item] == [item for item in whole if item]
    assert splitter.pending == b""


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_error_inside_the_stream_is_a_failure(name: str) -> None:
    seen = recording(name)
    last = read(dialect_of(seen).stream(seen.request(), "tiny"), frames_of(seen.answer))[-1]

    assert isinstance(last, Failure)
    assert last.kind is (FailureKind.OVERLOADED if "queue_full" in name else FailureKind.ENGINE)


@given(cut=st.integers(0, 10_000), name=st.sampled_from(["vllm/base/chat_n2_stream", "sglang/base/chat_n2_stream"]))
def test_stream_truncated_before_its_last_finish_reason_is_a_failure(cut: int, name: str) -> None:
    seen = recording(name)
    complete = seen.answer.rindex(b'"finish_reason":"length"') + 1
    decoder = dialect_of(seen).stream(seen.request(), "tiny")
    read(decoder, frames_of(seen.answer[: cut % complete]))

    assert isinstance(decoder.end(), Failure)


def test_done_without_finish_reason_is_a_failure() -> None:
    seen = recording("vllm/base/chat_stream")
    frames = frames_of(seen.answer)
    last = read(VLLM.stream(seen.request(), "tiny"), [*frames[:3], DONE])[-1]

    assert isinstance(last, Failure)
    assert "finish_reason" in last.message


def test_stream_may_end_without_done_after_all_finish_reasons() -> None:
    seen = recording("vllm/base/chat_stream")
    decoder = VLLM.stream(seen.request(), "tiny")
    read(decoder, frames_of(seen.answer)[:-1])

    assert decoder.end() is None


def test_drops_frames_after_done() -> None:
    seen = recording("vllm/base/chat_stream")
    frames = frames_of(seen.answer)
    decoder = VLLM.stream(seen.request(), "tiny")
    read(decoder, frames)

    assert decoder.frame(frames[1]) == b""


def test_forwards_heartbeats() -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "m")

    assert decoder.frame(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert decoder.frame(b"data:\n\n") == b""


@pytest.mark.parametrize(
    "name", ["vllm/base/reason_stream", "sglang/reasoning/reas_stream", "trtllm/base/reasoning_stream"]
)
def test_reasoning_is_sent_under_both_names(name: str) -> None:
    chunks, _ = decoded(recording(name))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    texts = [(delta.get("reasoning"), delta["reasoning_content"]) for delta in deltas if delta.get("reasoning_content")]

    assert texts
    assert all(one == other for one, other in texts)


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("vllm/base/tools_auto_stream", "tool_calls"),
        ("vllm/base/tools_named_stream", "tool_calls"),  # vLLM itself says "stop"
        ("vllm/base/tools_required_stream", "tool_calls"),
        ("sglang/tools/tool_named_stream", "length"),
        ("sglang/tools/tool_strict_required_stream", "length"),
        ("trtllm/base/tools_stream", "tool_calls"),
    ],
)
def test_tool_call_has_one_id_and_its_finish_reason(name: str, finish: str) -> None:
    chunks, _ = decoded(recording(name))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls") or []]
    indexes = {call["index"] for call in calls}

    assert len([call for call in calls if call.get("id")]) == len(indexes)
    assert len([call for call in calls if call["function"].get("name")]) == len(indexes)
    assert [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == [finish]


def test_removes_repeated_tool_call_ids() -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "m")
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    chunk = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    first, second = (decoder.frame(b"data: " + orjson.dumps(chunk) + b"\n\n") for _ in range(2))

    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert b'"c1"' in first
    assert orjson.loads(data_of(second) or b"")["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "function": {"arguments": "{"}}
    ]


def tool_frames(decoder: StreamDecoder, *frames: list[Json]) -> list[list[Json]]:
    """What is left of the tool calls of these frames."""
    shown = []
    for calls in frames:
        chunk = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
        frame = decoder.frame(b"data: " + orjson.dumps(chunk) + b"\n\n")
        assert isinstance(frame, bytes)
        shown.append(orjson.loads(data_of(frame) or b"")["choices"][0]["delta"].get("tool_calls", []))
    return shown


WRONG: list[Json] = [
    {"delta": {"content": {"a": 1}}},
    {"delta": {"reasoning": ["x"]}},
    {"delta": ["x"]},
    {"delta": {}, "finish_reason": ["stop"]},
    {"delta": {"content": "x"}, "logprobs": {"content": "x"}},
    {"text": "x", "logprobs": {"tokens": [7]}},
    {"delta": {"tool_calls": [{"index": 0, "id": 7, "function": {"name": "f"}}]}},
    {"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": {"f": 1}}}]}},
    {"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}},
]


@pytest.mark.parametrize("choice", WRONG)
def test_wrong_types_are_an_engine_failure(choice: Json) -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "m")

    failure = decoder.frame(b"data: " + orjson.dumps({"id": "x", "model": "m", "choices": [choice]}) + b"\n\n")

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


def begun_call(index: int) -> Json:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": ""}}


def more(index: int, arguments: str) -> Json:
    return {"index": index, "function": {"arguments": arguments}}


def test_merges_entries_of_one_call_in_a_frame() -> None:
    """VLLM's first frame of a call has two pieces of it, and some clients read the first alone."""
    decoder = VLLM.stream(inference_request({"model": "m"}), "m")

    (shown,) = tool_frames(decoder, [begun_call(0), more(0, '{"'), begun_call(1), more(0, "a"), more(1, "{}")])

    assert [call["function"]["arguments"] for call in shown] == ['{"a', "{}"]
    assert [call["id"] for call in shown] == ["c0", "c1"]


def test_drops_further_calls_without_parallel_tool_calls() -> None:
    decoder = VLLM.stream(inference_request({"model": "m", "parallel_tool_calls": False}), "m")

    shown = tool_frames(decoder, [begun_call(0)], [more(0, "{}")], [begun_call(1), more(0, " ")], [more(1, "{}")])

    assert [[call["index"] for call in calls] for calls in shown] == [[0], [0], [0], []]


@pytest.mark.parametrize("name", ["vllm/base/chat_stream", "sglang/base/chat_stream", "trtllm/base/chat_stream"])
def test_every_frame_has_the_public_model_name(name: str) -> None:
    chunks, _ = decoded(recording(name), "org/public:latest")

    assert {chunk["model"] for chunk in chunks} == {"org/public:latest"}


def test_text_that_looks_like_json_stays_unchanged() -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "public")
    text = '"model":"m" "error":{} "usage":{ "finish_reason":"stop" [DONE]'
    for _ in range(2):  # the first frame is parsed, the second is not
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        out = decoder.frame(b"data: " + orjson.dumps({"id": "x", "model": "m", "choices": [choice]}) + b"\n\n")
        assert isinstance(out, bytes)
        chunk = orjson.loads(data_of(out) or b"")
        assert chunk["choices"][0]["delta"]["content"] == text
        assert chunk["model"] == "public"


def frame_with(content: str, *, index: int = 0, **fields: object) -> bytes:
    choice = {"index": index, "delta": {"content": content}, "logprobs": None, "finish_reason": None, **fields}
    return b"data: " + orjson.dumps({"id": "x", "created": 1, "model": "m", "choices": [choice]}) + b"\n\n"


TEXTS = st.lists(
    st.text(max_size=8) | st.sampled_from(['"', "\\", '\\"', '"},"logprobs":null', "\n", "🦊"]), max_size=12
)


@given(texts=TEXTS, model=st.sampled_from(["m", "public", 'odd "name"']), choices=st.integers(1, 3))
def test_fast_path_gives_the_same_as_parsing(texts: list[str], model: str, choices: int) -> None:
    decoder = SGLANG.stream(inference_request({"model": "m", "n": choices}), model)
    for place, text in enumerate(texts):
        out = decoder.frame(frame_with(text, index=place % choices))
        assert isinstance(out, bytes)
        chunk = orjson.loads(data_of(out) or b"")
        assert chunk["model"] == model
        assert chunk["choices"][0]["index"] == place % choices
        assert chunk["choices"][0]["delta"]["content"] == text


@given(texts=TEXTS, at=st.integers(0, 12), finish=st.sampled_from(["abort", "stop", None]))
def test_detects_the_end_after_any_text(texts: list[str], at: int, finish: str | None) -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "m")
    read(decoder, [frame_with(text) for text in texts[:at]])

    last = decoder.frame(frame_with("end", finish_reason=finish))

    assert isinstance(last, Failure) is (finish == "abort")
    assert (decoder.end() is None) is (finish == "stop")


def test_stops_learning_templates_after_a_limit() -> None:
    decoder = TRTLLM.stream(inference_request({"model": "m"}), "m")
    for place in range(100):
        out = decoder.frame(frame_with("a", logprobs={"content": [], "place": place}))
        assert isinstance(out, bytes)
        assert orjson.loads(data_of(out) or b"")["choices"][0]["logprobs"]["place"] == place


def test_parses_chunks_with_ambiguous_text() -> None:
    decoder = VLLM.stream(inference_request({"model": "m"}), "public")
    for _ in range(3):
        out = decoder.frame(frame_with("a", extra={"content": "b", "text": 7}))
        assert isinstance(out, bytes)
        assert b'"model":"public"' in out


@pytest.mark.parametrize(
    "data",
    [
        *(b"{", b"[]", b"7", b"null", b'"text"', b"\xff", b'{"choices":7}', b'{"choices":["a"]}'),
        *(b'{"choices":[{"delta":{"tool_calls":["a"]}}]}', b'{"choices":[{"index":{}}]}'),
        *(b'{"error":"boom"}', b'{"object":"error","message":"boom","code":500}', b'{"error":{"code":"odd"}}'),
        b'{"id":"x","model":"other","choices":[{"delta":' + b"[" * 400 + b"]" * 400 + b"}]}",
    ],
)
def test_invalid_frame_is_a_failure(data: bytes) -> None:
    failure = TRTLLM.stream(inference_request({"model": "m"}), "m").frame(b"data: " + data + b"\n\n")

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "index", "usage", "tool_calls", "function", "error", "finish_reason"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_decoder_never_raises(document: object) -> None:
    for dialect in (VLLM, SGLANG, TRTLLM):
        decoder = dialect.stream(inference_request({"model": "m"}), "m")
        assert isinstance(decoder.frame(b"data: " + orjson.dumps(document) + b"\n\n"), bytes | Failure)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"n": 2}, 2),
        ({}, 1),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]]}, 2),
        ({"prompt": "a"}, 1),
    ],
)
def test_expects_n_choices_for_each_prompt(body: Json, expected: int) -> None:
    assert expected_choices(inference_request({"model": "m", **body}, Operation.COMPLETION)) == expected


@pytest.mark.parametrize(
    ("choice", "mute"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, 1),
        ({"delta": {"content": ""}}, 1),
        ({"delta": {}}, 1),
        ({"delta": {"content": "a"}}, 0),
        ({"delta": {"reasoning": "a"}}, 0),
        ({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}, 0),
        ({"delta": {"content": ""}, "logprobs": {"content": []}}, 0),
        ({"delta": {"content": ""}, "token_ids": [7]}, 0),
        ({"delta": {}, "finish_reason": "stop"}, 0),
    ],
)
def test_frames_that_say_nothing_are_counted(choice: Json, mute: int) -> None:
    document = {"id": "x", "created": 1, "object": "chat.completion.chunk", "model": "tiny"}
    one = b"data: %b\n\n" % orjson.dumps({**document, "choices": [{"index": 0, **choice}]})
    operation = Operation.COMPLETION if "text" in choice else Operation.CHAT
    decoder = VLLM.stream(inference_request({"stream": True}, operation), "tiny")
    ignores_end = VLLM.stream(inference_request({"stream": True, "ignore_eos": True}, operation), "tiny")

    assert decoder.feed(b": comment\n\n" + one + one).startswith(b": comment\n\n")
    assert ignores_end.feed(one)

    assert (decoder.frames, decoder.mute, ignores_end.mute) == (3, 1 + 2 * mute, 0)


def test_empty_text_between_others_says_nothing() -> None:
    decoder = VLLM.stream(inference_request({"messages": [], "stream": True}), "tiny")
    for content in ("a", "b", "", "c", ""):
        decoder.feed(frame_with(content))

    assert (decoder.frames, decoder.mute) == (5, 2)


@pytest.mark.parametrize(("odd", "text"), [(b"\\ud800", "a\ufffd"), (b"\\ud83d\\ude00", "a😀"), (b"\\x", "\ufffd")])
def test_transcript_of_invalid_text_is_not_known(odd: bytes, text: str) -> None:
    """Frames that match a template pass unparsed."""
    decoder = VLLM.stream(inference_request({"messages": [], "stream": True}), "tiny")
    decoder.keep()
    decoder.feed(frame_with("a"))
    decoder.feed(frame_with("MARK").replace(b"MARK", odd))

    assert decoder.transcript().text == text


def test_transcript_has_the_text_after_keep() -> None:
    texts = ["Zwö", 'lf "', "\\o/\n", "世", "x" * 40, "y"]
    decoder = VLLM.stream(inference_request({"stream": True}), "tiny")
    decoder.keep()

    read(decoder, [said({"role": "assistant", "content": ""}), *(said({"content": text}) for text in texts)])

    seen = decoder.transcript()
    assert (seen.id, seen.created, seen.text, seen.tokens) == ("c-1", 5, "".join(texts), len(texts))
    assert (seen.reasoned, seen.called, seen.finish_reason) == (False, False, "")


def test_transcript_has_reasoning_tool_calls_and_finish_reason() -> None:
    decoder = VLLM.stream(inference_request({"stream": True}), "tiny")
    call = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}

    read(decoder, [said({"reasoning": "hm"}), said({"tool_calls": [call]}), said({}, finish="stop")])

    seen = decoder.transcript()
    assert (seen.text, seen.reasoned, seen.called, seen.finish_reason) == ("", True, True, "tool_calls")


def said(delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % orjson.dumps({"id": "c-1", "created": 5, "model": "tiny", "choices": [choice]})
