"""Which streams another engine may go on with, and what it is asked."""

import dataclasses
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from berth.canonical import InferenceRequest, Operation, Transcript
from berth.plan import Replica
from berth.router.exchange.outcomes import ContinuationBlocker
from berth.router.forwarding import continuation
from berth.sse import DONE, FrameSplitter, data_of
from tests.fakes import router

SO_FAR = Transcript(id="chatcmpl-1", created=7, text="Once upon", tokens=2)
USER: dict[str, Any] = {"role": "user", "content": "hello"}


def chat(**fields: Any) -> InferenceRequest:
    body = {"model": "m", "messages": [USER], "stream": True, **fields}
    return InferenceRequest(operation=Operation.CHAT, model="m", body=body, stream=True)


def completion(**fields: Any) -> InferenceRequest:
    body = {"model": "m", "prompt": "Hello", "stream": True, **fields}
    return InferenceRequest(operation=Operation.COMPLETION, model="m", body=body, stream=True)


@pytest.mark.parametrize(
    ("request_", "obstacle"),
    [
        (chat(), None),
        (chat(temperature=1.0, tools=[{}], tool_choice="auto", response_format={"type": "text"}), None),
        (completion(), None),
        (chat(n=2), ContinuationBlocker.CHOICES),
        (completion(best_of=3), ContinuationBlocker.CHOICES),
        (completion(prompt=["a", "b"]), ContinuationBlocker.CHOICES),
        (completion(echo=True), ContinuationBlocker.ECHO),
        (chat(logprobs=True), ContinuationBlocker.LOGPROBS),
        (completion(logprobs=0), ContinuationBlocker.LOGPROBS),
        (chat(prompt_logprobs=1), ContinuationBlocker.LOGPROBS),
        (chat(tools=[{}], tool_choice="required"), ContinuationBlocker.TOOLS),
        (chat(response_format={"type": "json_object"}), ContinuationBlocker.CONSTRAINT),
        (chat(structured_outputs={"regex": "a"}), ContinuationBlocker.CONSTRAINT),
        (chat(seed=0), ContinuationBlocker.SEED),
        (chat(stop="x"), ContinuationBlocker.STOP),
        (chat(ignore_eos=True), ContinuationBlocker.HIDDEN),
        (completion(prompt=[1, 2]), ContinuationBlocker.PROMPT),
        (completion(suffix="x"), ContinuationBlocker.MODALITY),
    ],
)
def test_request_blocks_continuation(request_: InferenceRequest, obstacle: ContinuationBlocker | None) -> None:
    assert continuation.blocker(request_) is obstacle


@pytest.mark.parametrize(
    ("so_far", "obstacle"),
    [
        (SO_FAR, None),
        (replace(SO_FAR, called=True), ContinuationBlocker.TOOLS),
        (replace(SO_FAR, reasoned=True), ContinuationBlocker.REASONING),
        (replace(SO_FAR, text=""), ContinuationBlocker.BEGINNING),
        (replace(SO_FAR, text="a \ufffd"), ContinuationBlocker.BYTES),
    ],
)
def test_response_so_far_blocks_continuation(so_far: Transcript, obstacle: ContinuationBlocker | None) -> None:
    assert continuation.blocker_in(so_far) is obstacle


def test_chat_continues_in_an_assistant_message() -> None:
    rest = continuation.continued(chat(max_tokens=10, min_tokens=1), SO_FAR)

    assert rest.body["messages"] == [USER, {"role": "assistant", "content": "Once upon"}]
    assert (rest.body["continue_final_message"], rest.body["add_generation_prompt"]) == (True, False)
    assert (rest.body["max_tokens"], rest.body["min_tokens"]) == (8, 1)
    assert rest.resume is SO_FAR


def test_text_given_by_the_client_is_extended() -> None:
    begun = {"role": "assistant", "content": "Well. "}

    rest = continuation.continued(chat(messages=[USER, begun], continue_final_message=True), SO_FAR)

    assert rest.body["messages"] == [USER, {"role": "assistant", "content": "Well. Once upon"}]


def test_finished_assistant_message_is_kept_separate() -> None:
    over = {"role": "assistant", "content": "Well. "}

    rest = continuation.continued(chat(messages=[USER, over]), SO_FAR)

    assert rest.body["messages"] == [USER, over, {"role": "assistant", "content": "Once upon"}]


def test_completion_continues_in_its_prompt() -> None:
    request = completion(max_tokens=5)

    rest = continuation.continued(request, SO_FAR)

    assert (rest.body["prompt"], rest.body["max_tokens"]) == ("HelloOnce upon", 3)
    assert (request.body["prompt"], request.resume) == ("Hello", None)


@pytest.mark.parametrize(
    ("request_", "complete"),
    [(chat(), False), (chat(max_tokens=3), False), (chat(max_tokens=2), True), (chat(max_completion_tokens=1), True)],
)
def test_response_with_all_tokens_is_complete(request_: InferenceRequest, complete: bool) -> None:
    assert continuation.is_complete(request_, SO_FAR) is complete


@pytest.mark.parametrize(("request_", "key"), [(chat(), "delta"), (completion(), "text")])
def test_ending_looks_like_the_engines(request_: InferenceRequest, key: str) -> None:
    last, done = FrameSplitter().feed(continuation.ending(request_, "m", SO_FAR))

    chunk = orjson.loads(data_of(last) or b"")
    assert (chunk["id"], chunk["created"], chunk["model"]) == ("chatcmpl-1", 7, "m")
    assert (chunk["choices"][0]["finish_reason"], not chunk["choices"][0][key]) == ("length", True)
    assert done == DONE


def test_notice_is_a_comment() -> None:
    notice = continuation.notice(twin("chat-a"), twin("chat-b"), SO_FAR)

    assert notice == b": berth moved chat-a -> chat-b at token 2\n\n"
    assert data_of(notice) is None


def twin(name: str, weights: str = "w") -> Replica:
    return dataclasses.replace(router.replica(name, "http://127.0.0.1:1"), weights=weights)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (twin("chat-a"), twin("chat-b"), True),
        (twin("chat-a"), twin("chat-a"), False),
        (twin("chat-a"), twin("other-b"), False),
        (twin("chat-a", ""), twin("chat-b", ""), False),
        (twin("chat-a", "w"), twin("chat-b", "v"), False),
    ],
)
def test_weights_must_be_known_to_be_the_same(first: Replica, second: Replica, same: bool) -> None:
    assert first.same_weights(second) is same
