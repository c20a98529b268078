from typing import Any

import pytest

from berth.canonical import InferenceRequest, Media, Operation
from berth.router.forwarding.response_limits import (
    MAX_RESPONSE_BYTES,
    count_bytes,
    error_bytes,
    frame_bytes,
    response_bytes,
)

KIB, MIB = 1 << 10, 1 << 20


def request(operation: Operation = Operation.CHAT, media: Media | None = None, **body: Any) -> InferenceRequest:
    return InferenceRequest(operation=operation, model="m", body=body, media=media)


def media(document: dict[str, Any] | None) -> InferenceRequest:
    return request(Operation.MEDIA, Media(path="/v1/x", content_type="x", document=document))


@pytest.mark.parametrize(
    ("asked", "real_bytes"),
    [
        pytest.param(request(), 131_072 * 12, id="a long text with reasoning, told twice"),
        pytest.param(request(n=8), 8 * 131_072 * 12, id="several texts"),
        pytest.param(request(logprobs=True, top_logprobs=20), 131_072 * 21 * 70, id="log probabilities"),
        pytest.param(request(Operation.COMPLETION, logprobs=5, echo=True), 131_072 * 12 * 70, id="an echo with them"),
        pytest.param(request(prompt_logprobs=0), 131_072 * 2 * 70, id="those of the prompt"),
        pytest.param(request(prompt_logprobs=-1), 300 * MIB, id="of all tokens there are"),
        pytest.param(request(return_hidden_states=True), 300 * MIB, id="hidden states"),
        pytest.param(request(Operation.EMBEDDING, input=["x"] * 2048), 2048 * 8192 * 21, id="many embeddings"),
        pytest.param(request(Operation.EMBEDDING, input="x"), 16_384 * 21, id="one embedding"),
        pytest.param(request(Operation.RERANK, documents=["x"] * 1000), 1000 * KIB, id="a ranking"),
        pytest.param(request(Operation.CLASSIFY, input="x"), 1000 * 22, id="labels"),
        pytest.param(request(Operation.TOKENIZE, prompt="x"), 131_072 * 20, id="tokens"),
        pytest.param(media({"n": 4}), 4 * 40 * MIB, id="pictures"),
        pytest.param(media({"input": "x"}), 60 * MIB, id="a sound"),
        pytest.param(media(None), 10 * MIB, id="a recording's text"),
    ],
)
def test_limit_exceeds_the_size_of_real_responses(asked: InferenceRequest, real_bytes: int) -> None:
    """To a prompt of 512 KiB, from a model with a context of 131,072 tokens."""
    most_bytes = response_bytes(asked, 512 * KIB, 131_072, streamed=False)

    assert real_bytes < most_bytes <= MAX_RESPONSE_BYTES


@pytest.mark.parametrize("fields", [{}, {"logprobs": True, "top_logprobs": 3}])
def test_limit_of_streams_includes_their_frames(fields: dict[str, Any]) -> None:
    whole, streamed = (response_bytes(request(**fields), 100, 1000, streamed=streamed) for streamed in (False, True))

    assert streamed - whole == 1000 * 768


def test_limit_grows_with_the_requested_tokens() -> None:
    few, many, unknown = (response_bytes(request(), 100, tokens, streamed=False) for tokens in (10, 10_000, None))

    assert few < 5 * MIB < many < unknown < 80 * MIB


def test_limits_single_frames() -> None:
    assert frame_bytes(request(), 0) == 8 * MIB
    assert frame_bytes(request(echo=True, logprobs=1), 1000) == 8 * MIB + 1000 * (8 + 2 * 128)
    assert frame_bytes(request(return_hidden_states=True), 0) == MAX_RESPONSE_BYTES
    assert frame_bytes(media({"input": "x"}), 0) == 64 * MIB


def test_no_limit_exceeds_the_maximum() -> None:
    asked_bytes = 256 * MIB

    assert error_bytes(asked_bytes) == count_bytes(asked_bytes) == MAX_RESPONSE_BYTES
    assert frame_bytes(request(), asked_bytes) == MAX_RESPONSE_BYTES
    assert response_bytes(request(n=128), 0, 1 << 40, streamed=True) == MAX_RESPONSE_BYTES
