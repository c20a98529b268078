from itertools import pairwise
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.apis.base import EncodingError
from berth.apis.responses.response import output_of
from berth.canonical import Json
from berth.errors import (
    ApiError,
    ContextLengthError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    UpstreamError,
)
from berth.sse import DONE
from tests.fakes.responses import (
    WEATHER,
    Memory,
    OfficialClient,
    api,
    call,
    check_order,
    check_response,
    encode,
    events,
    frame,
    reasoning,
    request_of,
    stream_of,
    usage,
)

PATCH: Json = {"type": "custom", "name": "apply_patch", "description": "Edit files."}


@pytest.fixture(scope="module")
def client() -> OfficialClient:
    return OfficialClient()


def text(said: str) -> bytes:
    return frame({"content": said})


def events_of(*says: bytes, finish: str = "stop", **fields: Any) -> list[Json]:
    """The events of such a stream, checked."""
    found = events(encode(request_of(stream=True, **fields), stream_of(*says, finish=finish)))
    check_order(found)
    return found


def kinds(found: list[Json]) -> list[str]:
    """Without what every event begins with."""
    return [event["type"].removeprefix("response.") for event in found]


def test_text_has_all_events() -> None:
    found = events_of(text("Hel"), text("lo"))

    assert kinds(found) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["delta"] for event in found[4:6]] == ["Hel", "lo"]
    assert found[6]["text"] == found[7]["part"]["text"] == "Hello"
    assert found[-1]["response"]["status"] == "completed"


def test_reasoning_is_an_item_before_the_text() -> None:
    found = events_of(reasoning("Let me"), reasoning(" see."), text("Four."))

    first, second = found[-1]["response"]["output"]
    assert kinds(found)[2:9] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
    ]
    assert (first["type"], first["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "Let me see."}])
    assert (first["summary"], second["content"][0]["text"]) == ([], "Four.")


@pytest.mark.parametrize("summary", ["auto", "concise", "detailed"])
def test_reasoning_is_a_summary_on_request(summary: str) -> None:
    """Codex and others show nothing else of it."""
    found = events_of(reasoning("Let me"), reasoning(" see."), text("Four."), reasoning={"summary": summary})

    response = found[-1]["response"]
    first = response["output"][0]
    assert kinds(found)[2:9] == [
        *("output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta", "reasoning_summary_text.done"),
        *("reasoning_summary_part.done", "output_item.done"),
    ]
    assert (first["summary"], first["content"]) == ([{"type": "summary_text", "text": "Let me see."}], [])
    assert response["reasoning"]["summary"] == summary
    whole = {"role": "assistant", "content": "Four.", "reasoning": "Let me see."}
    choice = {"index": 0, "message": whole, "finish_reason": "stop"}
    answer = output_of(request_of(reasoning={"summary": summary}), choice)
    assert [item["summary"] for item in answer[:1]] == [first["summary"]]


def test_consecutive_calls_are_closed_in_turn() -> None:
    found = events_of(
        *(call(0, name="get_weather"), call(0, '{"city":'), call(0, '"Rome"}')),
        *(call(1, name="get_weather"), call(1, '{"city":"Oslo"}')),
        finish="tool_calls",
        tools=[WEATHER],
    )

    assert kinds(found)[2:-1] == [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
    ]
    calls = found[-1]["response"]["output"]
    assert [(one["call_id"], one["arguments"]) for one in calls] == [
        ("call_0", '{"city":"Rome"}'),
        ("call_1", '{"city":"Oslo"}'),
    ]


def test_interleaved_calls_are_open_together(client: OfficialClient) -> None:
    says = [call(0, name="f"), call(0, '{"a":'), call(1, name="g"), call(1, "{"), call(0, "1}"), call(1, "}")]
    request = request_of(stream=True, tools=[{"type": "function", "name": name} for name in "fg"])
    shown = encode(request, stream_of(*says, finish="tool_calls"))

    check_order(events(shown))
    first, second = client.accumulated(shown)["output"]
    assert (first["arguments"], second["arguments"]) == ('{"a":1}', "{}")


def test_ignores_white_space_after_complete_arguments() -> None:
    found = events_of(call(0, "{}", name="f"), call(1, "{}", name="g"), call(0, " "), finish="tool_calls")

    assert [item["arguments"] for item in found[-1]["response"]["output"]] == ["{}", "{}"]


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    found = events_of(call(0, name="f"), finish="tool_calls")

    assert [event.get("delta") for event in found if event["type"].endswith("arguments.delta")] == ["{}"]
    assert found[-1]["response"]["output"][0]["arguments"] == "{}"


def test_a_call_without_an_id_gets_one() -> None:
    nameless = frame({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})

    (item,) = events_of(nameless, finish="tool_calls")[-1]["response"]["output"]

    assert item["call_id"].startswith("call_")


def test_text_around_a_call_makes_two_messages() -> None:
    found = events_of(text("I look."), call(0, "{}", name="f"), text("Done."))

    assert [item["type"] for item in found[-1]["response"]["output"]] == ["message", "function_call", "message"]


def test_text_leaves_an_incomplete_call_open() -> None:
    found = events_of(call(0, '{"a":', name="f"), text("Wait."), call(0, "1}"), finish="tool_calls")

    first, second = found[-1]["response"]["output"]
    assert (first["arguments"], second["content"][0]["text"]) == ('{"a":1}', "Wait.")


def test_a_custom_tools_call_has_its_text_and_not_json() -> None:
    patch = "*** Begin Patch\n*** End Patch"
    arguments = orjson.dumps({"input": patch}).decode()
    found = events_of(call(0, name="apply_patch"), call(0, arguments[:9]), call(0, arguments[9:]), tools=[PATCH])

    assert kinds(found)[2:-1] == [
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"),
    ]
    (item,) = found[-1]["response"]["output"]
    assert (item["type"], item["input"], item["call_id"]) == ("custom_tool_call", patch, "call_0")


def test_a_call_in_a_namespace_has_its_own_name() -> None:
    space = {"type": "namespace", "name": "ns", "description": "d", "tools": [{"type": "function", "name": "f"}]}
    found = events_of(call(0, "{}", name="ns__f"), finish="tool_calls", tools=[space])

    (item,) = found[-1]["response"]["output"]
    assert (item["name"], item["namespace"]) == ("f", "ns")


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_truncated_response_is_incomplete(finish: str, reason: str) -> None:
    found = events_of(text("Once upon"), finish=finish)

    response = found[-1]["response"]
    assert found[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert response["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        (b"codex_cli_rs/0.98.0 (Linux; x86_64)", "completed"),
        (b"codex_exec/0.169.0", "incomplete"),
        (b"codex_cli_rs/1.2.0", "incomplete"),
        (b"OpenAI/Python 3.52.0", "incomplete"),
    ],
)
def test_old_codex_gets_completed_for_a_truncated_response(agent: bytes, kind: str) -> None:
    request = request_of({b"user-agent": agent}, stream=True)
    last = events(encode(request, stream_of(text("Once"), finish="length")))[-1]

    assert last["type"] == f"response.{kind}"
    assert last["response"]["status"] == "incomplete"


def test_truncated_arguments_are_incomplete() -> None:
    found = events_of(call(0, "{}", name="f"), call(1, '{"a":', name="g"), finish="length")

    assert [item["status"] for item in found[-1]["response"]["output"]] == ["completed", "incomplete"]
    assert found[-1]["response"]["output"][1]["arguments"] == '{"a":'


def test_empty_response_has_an_empty_message() -> None:
    (item,) = events_of()[-1]["response"]["output"]

    assert (item["type"], item["content"][0]["text"]) == ("message", "")


def test_keeps_a_refusal() -> None:
    assert events_of(frame({"refusal": "No."}))[-1]["response"]["output"][0]["content"][0]["text"] == "No."


def test_usage_has_all_counts() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}
    frames = [text("a"), frame(finish="stop"), usage(7, 5, **details), DONE]

    assert events(encode(request_of(stream=True), frames))[-1]["response"]["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


def test_missing_usage_is_null() -> None:
    shown = encode(request_of(stream=True), [text("a"), frame(finish="stop"), DONE])

    assert events(shown)[-1]["response"]["usage"] is None


def test_logprobs_are_in_deltas_and_in_the_item() -> None:
    top = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    content = [{"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": [top]}]
    found = events_of(
        frame({"content": "é"}, logprobs={"content": content}),
        frame({"content": "é"}, logprobs={"content": content}),
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )

    wanted = {**top, "top_logprobs": [top]}
    assert [event["logprobs"] for event in found if event["type"].endswith("text.delta")] == [[wanted], [wanted]]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == [wanted, wanted]


def test_seals_reasoning_on_request() -> None:
    found = events_of(reasoning("Hm."), text("a"), include=["reasoning.encrypted_content"])

    added, done = (event["item"] for event in found if event.get("output_index") == 0 and "item" in event)
    assert "encrypted_content" not in added
    assert done["encrypted_content"]


def test_stores_the_response_before_the_last_event() -> None:
    store = Memory()
    request = request_of(stream=True)
    encoder = api(store).stream(request)
    *before, done = stream_of(text("Hi"))
    for one in before:
        encoder.feed(one)
    assert store.kept == {}

    shown = events(encoder.feed(done))
    kept = store.get("", request.id)

    assert kept is not None
    assert kept.response == shown[-1]["response"]


def test_store_false_stores_nothing() -> None:
    store = Memory()
    encode(request_of(stream=True, store=False), stream_of(text("Hi")), store)

    assert store.kept == {}


def test_ignores_comments() -> None:
    encoder = api().stream(request_of(stream=True))

    assert encoder.feed(b": berth moved a -> b at token 3\n\n") == b""


def test_another_engine_continues_the_same_item() -> None:
    other = frame({"content": " world"}).replace(b'"logprobs":null,', b"")
    found = events_of(text("Hello"), text(","), b": berth moved a -> b at token 2\n\n" + other, other, text("!"))

    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Hello, world world!"


def test_nothing_follows_the_end() -> None:
    encoder = api().stream(request_of(stream=True))
    encoder.feed(b"".join(stream_of(text("a"))))

    assert encoder.feed(text("b")) + encoder.feed(DONE) == b""
    assert encoder.fail(UpstreamError("boom")) + encoder.heartbeat("still there") == b""


FAILURES: list[tuple[ApiError, Json]] = [
    (ContextLengthError("Too long."), {"code": "context_length_exceeded", "message": "Too long."}),
    (
        OverloadedError("Full.", retry_after_s=11.05),
        {"code": "rate_limit_exceeded", "message": "Full. Please try again in 11.1s."},
    ),
    (OverloadedError("Full."), {"code": "rate_limit_exceeded", "message": "Full."}),
    (InvalidRequestError("Wrong."), {"code": "invalid_prompt", "message": "Wrong."}),
    (UpstreamError("Boom."), {"code": "server_error", "message": "Boom."}),
    (NotReadyError("Stopping."), {"code": "server_error", "message": "Stopping."}),
]


@pytest.mark.parametrize(("error", "shown"), FAILURES, ids=lambda value: getattr(value, "message", ""))
def test_a_failure_has_the_code_that_codex_acts_on(error: ApiError, shown: Json) -> None:
    encoder = api().stream(request_of(stream=True))
    found = events(encoder.feed(text("Hal")) + encoder.fail(error))

    check_order(found)
    response = found[-1]["response"]
    assert (response["status"], response["error"]) == ("failed", shown)
    assert response["output"][0]["content"][0]["text"] == "Hal"
    assert response["output"][0]["status"] == "incomplete"


def test_failure_before_the_first_token_sends_created_first() -> None:
    found = events(api().stream(request_of(stream=True)).fail(UpstreamError("boom")))

    check_order(found)
    assert kinds(found) == ["created", "in_progress", "failed"]


@pytest.mark.parametrize("begun", [b"", text("a"), text("a") + text("b") + call(0, "{}", name="f")])
@pytest.mark.parametrize("piece", [text("c"), b""])
def test_stream_that_cannot_be_written_fails_in_order(begun: bytes, piece: bytes) -> None:
    """Arguments that are no text, which are part of the failed response too."""
    store = Memory()
    encoder = api(store).stream(request_of(stream=True))
    sent = encoder.feed(begun) if begun else b""
    with pytest.raises(EncodingError) as caught:
        encoder.feed(piece + usage() + call(1, cast("str", 5), name="g") + frame(finish="stop") + DONE)

    sent += caught.value.sent + encoder.fail(UpstreamError("boom"))

    found = events(sent)
    check_order(found)
    assert (found[-1]["type"], found[-1]["response"]["usage"]) == ("response.failed", None)
    assert [one.response["status"] for one in store.kept.values()] == ["failed"]


def test_failure_in_a_call_keeps_its_partial_arguments() -> None:
    encoder = api().stream(request_of(stream=True))
    found = events(encoder.feed(call(0, '{"a":', name="f")) + encoder.fail(UpstreamError("boom")))

    (item,) = found[-1]["response"]["output"]
    assert (item["status"], item["arguments"]) == ("incomplete", '{"a":')


def test_stores_a_failed_response() -> None:
    store = Memory()
    request = request_of(stream=True)
    api(store).stream(request).fail(UpstreamError("boom"))

    kept = store.get("", request.id)
    assert kept is not None
    assert kept.response["status"] == "failed"


def test_heartbeat_is_an_event_and_a_comment(client: OfficialClient) -> None:
    encoder = api().stream(request_of(stream=True))
    shown = encoder.heartbeat("queued, position 3") + encoder.heartbeat("queued, position 2")
    shown += encoder.feed(b"".join(stream_of(text("Hi"))[:2])) + encoder.heartbeat("slow")
    shown += encoder.feed(b"".join(stream_of()[1:]))

    assert b": queued, position 3\n\n" in shown
    found = events(shown)
    check_order(found)
    assert kinds(found)[:3] == ["created", "in_progress", "in_progress"]
    assert client.accumulated(shown)["output"][0]["content"][0]["text"] == "Hi"


def test_invalid_json_text_does_not_prevent_the_end() -> None:
    """The frames of an engine that writes wrong escapes are passed on unread; the client's parser will judge them."""
    wrong = text("x").replace(b'"x"', b'"\\x"')
    encoder = api().stream(request_of(stream=True))
    encoder.feed(text("a"))
    encoder.feed(wrong)

    assert events(encoder.feed(b"".join(stream_of()[1:])))[-1]["type"] == "response.completed"


def test_template_and_parser_write_the_same_bytes() -> None:
    said = ["Hel", "lo ", "\\n", "é🦊", " ", "a\\\\", "x"]
    frames = [text("").replace(b'"content":""', b'"content":"%b"' % one.encode()) for one in said]
    quick = events_of(*frames)
    slow = events_of(*(one.replace(b'"content":', b'"content": ') for one in frames))

    assert quick == slow
    assert [event["delta"] for event in quick if event["type"].endswith("text.delta")] == [
        orjson.loads(f'"{one}"') for one in said
    ]


def test_frames_that_never_match_a_template_are_parsed() -> None:
    def odd(number: int) -> bytes:
        return text("a").replace(b"chatcmpl-1", b"chatcmpl-%d" % number)

    found = events_of(*(odd(number) for number in range(40)))

    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "a" * 40


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
ARGUMENTS = st.dictionaries(WORDS, WORDS | st.integers(0, 9), max_size=3).map(
    lambda value: orjson.dumps(value).decode()
)


@st.composite
def pieces(draw: st.DrawFn, whole: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Json, list[bytes]]:
    """A whole canonical answer, and frames of a stream that says the same."""
    thought, said = draw(WORDS), draw(WORDS)
    calls = draw(st.lists(ARGUMENTS, max_size=3))
    finish = draw(st.sampled_from(["tool_calls" if calls else "stop", "length"]))
    begun = [call(place, name=f"f{place}") for place in range(len(calls))]
    rest = [[call(place, piece) for piece in draw(pieces(whole))] for place, whole in enumerate(calls)]
    if draw(st.booleans()):  # as engines do it: one call after the other
        told_calls = [one for first, more in zip(begun, rest, strict=True) for one in (first, *more)]
    else:
        told_calls = begun + draw(st.permutations(range(sum(map(len, rest)))).map(lambda order: _mixed(rest, order)))
    frames = [reasoning(piece) for piece in draw(pieces(thought)) if piece]
    frames += [text(piece) for piece in draw(pieces(said)) if piece]
    message = {
        "role": "assistant",
        "content": said or None,
        **({"reasoning": thought, "reasoning_content": thought} if thought else {}),
        "tool_calls": [
            {"id": f"call_{place}", "type": "function", "function": {"name": f"f{place}", "arguments": arguments}}
            for place, arguments in enumerate(calls)
        ],
    }
    numbers = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"choices": [choice], "usage": numbers}, stream_of(*frames, *told_calls, finish=finish)


def _mixed(rest: list[list[bytes]], order: list[int]) -> list[bytes]:
    """The deltas of all calls in another order, in which those of one call keep theirs."""
    owners = [place for place, deltas in enumerate(rest) for _ in deltas]
    queues = [iter(deltas) for deltas in rest]
    return [next(queues[owners[place]]) for place in order]


@st.composite
def chunked(draw: st.DrawFn) -> tuple[Json, list[bytes]]:
    """The frames in any number of feeds."""
    answer, frames = draw(answers())
    sizes = draw(st.lists(st.integers(1, 4), min_size=len(frames), max_size=len(frames)))
    feeds = []
    while frames:
        size = sizes.pop()
        feeds.append(b"".join(frames[:size]))
        frames = frames[size:]
    return answer, feeds


@settings(max_examples=150, deadline=None)
@given(chunked())
def test_any_stream_equals_the_response_for_the_official_client(case: tuple[Json, list[bytes]]) -> None:
    answer, feeds = case
    request = request_of(stream=True)
    shown = encode(request, feeds)

    found = events(shown)
    check_order(found)
    whole = check_response(orjson.loads(api().response(request, orjson.dumps(answer))))
    assert found[-1]["response"] == whole
    if whole["status"] == "completed":
        assert _plain(OFFICIAL.accumulated(shown)) == whole["output"]


OFFICIAL = OfficialClient()


def _plain(response: Json) -> list[Json]:
    """Without what the client adds."""
    for item in response["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return list(response["output"])


@settings(max_examples=50, deadline=None)
@given(chunked(), st.integers(0, 30))
def test_failure_at_any_point_ends_the_stream_once(case: tuple[Json, list[bytes]], at: int) -> None:
    _, feeds = case
    encoder = api().stream(request_of(stream=True))
    shown = b"".join(encoder.feed(one) for one in feeds[:-1][:at])
    shown += encoder.heartbeat("waiting")

    check_order(events(shown + encoder.fail(UpstreamError("boom"))))


def test_official_client_accumulates_the_text(client: OfficialClient) -> None:
    shown = encode(request_of(stream=True), stream_of(text("a"), text("b"), text("c")))

    assert client.snapshots(shown) == ["a", "ab", "abc"]
