import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import EngineResponse, Failure, FailureKind, Json
from berth.dialects.openai import OpenaiDialect
from tests.fakes.recordings import inference_request, recording

BODY: Json = {"model": "alias", "messages": [], "guided_json": {}, "stream": True}


def test_fields_pass_unchanged() -> None:
    body = orjson.loads(OpenaiDialect().request(inference_request(BODY), "far").body)

    assert body == {**BODY, "model": "far", "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("given", "fields", "sent"),
    [
        ({"max_completion_tokens": 5}, (), {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 5}, ("max_tokens",), {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, ("max_tokens",), {"max_tokens": 5}),
        ({"max_tokens": 9}, ("max_tokens", "max_completion_tokens"), {"max_tokens": 9, "max_completion_tokens": 9}),
        ({"max_tokens": None}, ("max_completion_tokens",), {}),
    ],
)
def test_limit_has_the_names_that_the_server_knows(given: Json, fields: tuple[str, ...], sent: Json) -> None:
    class Dialect(OpenaiDialect):
        limit_fields = fields

    body = orjson.loads(Dialect().request(inference_request({"messages": [], **given}), "far").body)

    assert body == {"messages": [], "model": "far", **sent}


def test_response_has_the_public_model_name() -> None:
    seen = recording("vllm/base/chat_basic")
    answer = OpenaiDialect().answer(seen.request(), "public", 200, seen.answer)

    assert isinstance(answer, EngineResponse)
    assert orjson.loads(answer.body)["model"] == "public"


def test_web_page_is_an_engine_failure() -> None:
    failure = OpenaiDialect().answer(inference_request(BODY), "m", 200, b"<html>Sign in</html>")

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


def test_stream_must_finish_every_choice_that_began() -> None:
    decoder = OpenaiDialect().stream(inference_request({**BODY, "n": 2}), "tiny")
    for frame in (b'{"choices":[{"index":0,"finish_reason":"stop"}]}', b'{"choices":[{"index":1}]}'):
        decoder.frame(b"data: " + frame + b"\n\n")

    assert isinstance(decoder.end(), Failure)
    decoder.frame(b'data: {"choices":[{"index":1,"finish_reason":"stop"}]}\n\n')
    assert decoder.end() is None


MMPROJ = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
SAID = {
    "llama.cpp: an image": (500, MMPROJ, FailureKind.UNSUPPORTED),
    "LiteLLM in front of it": (
        500,
        f"litellm.InternalServerError: OpenAIException - {MMPROJ}",
        FailureKind.UNSUPPORTED,
    ),
    "mlx: an image": (404, "Only 'text' content type is supported.", FailureKind.UNSUPPORTED),
    "mlx: its generator is dead": (404, "generation thread died", FailureKind.ENGINE),
    "llama.cpp: its template refuses": (500, "Error: Jinja Exception: roles must alternate", FailureKind.UNSUPPORTED),
    "llama.cpp's router: a model": (400, "model 'm' not found", FailureKind.CONFIG),
    "transformers: a model": (400, "Server is pinned to 'a'; 'm' is not accepted", FailureKind.CONFIG),
    "LiteLLM: a model": (400, "/chat/completions: Invalid model name passed in model=m.", FailureKind.CONFIG),
    "Ollama: a model": (404, 'model "m:latest" not found, try pulling it first', FailureKind.CONFIG),
    "OpenAI: a model": (404, "The model `m` does not exist or you do not have access to it.", FailureKind.CONFIG),
    "no such path": (404, "Not Found", FailureKind.UNSUPPORTED),
    "llama.cpp: no such path": (404, "File Not Found", FailureKind.UNSUPPORTED),
    "llama.cpp: embeddings": (501, "This server does not support embeddings. Start it", FailureKind.UNSUPPORTED),
    "transformers: fields": (422, "Unexpected fields in the request: {'n', 'min_p'}", FailureKind.UNSUPPORTED),
    "OpenRouter: moderation": (403, "Your input was flagged by the content filter", FailureKind.CLIENT),
    "llama.cpp: a key": (401, "Invalid API Key", FailureKind.CONFIG),
    "OpenRouter: no money": (402, "Insufficient credits", FailureKind.CONFIG),
    "a crash": (500, "Internal Server Error", FailureKind.ENGINE),
}


@pytest.mark.parametrize(("status", "message", "kind"), SAID.values(), ids=SAID)
def test_whose_fault_an_error_is(status: int, message: str, kind: FailureKind) -> None:
    body = orjson.dumps({"error": {"message": message}})
    failure = OpenaiDialect().answer(inference_request(BODY), "m", status, body)

    assert isinstance(failure, Failure)
    assert failure.kind is kind


@pytest.mark.parametrize(
    "message",
    [
        "request (180012 tokens) exceeds the available context size (4096 tokens), try increasing it",  # llama.cpp
        "litellm.ContextWindowExceededError: too long",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",  # TGI
        "This model's maximum context length is 4096 tokens.",
    ],
)
def test_too_long_has_openais_code(message: str) -> None:
    error = {"code": 400, "message": message, "type": "exceed_context_size_error", "n_prompt_tokens": 180012}
    failure = OpenaiDialect().answer(inference_request(BODY), "m", 400, orjson.dumps({"error": error}))

    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.code) == (FailureKind.CLIENT, 400, "context_length_exceeded")


BLAMING = (FailureKind.ENGINE, FailureKind.CONFIG, FailureKind.LOADING, FailureKind.OVERLOADED)


@given(
    st.sampled_from(
        [words for _, words, _ in SAID.values()]
        + ["Loading model", "The queue is full", "Out of range float values are not JSON compliant"]
    ),
    st.text(),
)
def test_no_client_can_have_a_healthy_server_blamed(quoted: str, more: str) -> None:
    """By a rejection that quotes what it wrote."""
    for status in (400, 413, 422):
        body = orjson.dumps({"detail": [{"loc": ["body", "messages"], "msg": f"bad value {quoted}{more!a}"}]})
        failure = OpenaiDialect().answer(inference_request(BODY), "m", status, body)

        assert isinstance(failure, Failure)
        assert failure.kind not in BLAMING
