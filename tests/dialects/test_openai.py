import orjson
import pytest

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
