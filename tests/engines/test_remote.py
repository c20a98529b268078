import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, Json
from berth.dialects.openai import OpenaiDialect
from berth.engines.remote import RemoteEngine
from tests.fakes.orders import launch_order
from tests.fakes.recordings import inference_request, recording

BODY: Json = {"model": "alias", "messages": [], "guided_json": {}, "stream": True}


def test_attached_engine_cannot_be_started() -> None:
    with pytest.raises(ValueError, match="attached"):
        RemoteEngine().launch(launch_order())

    assert RemoteEngine().overhead_bytes(gpus=1) == 0


def test_fields_pass_as_they_are() -> None:
    body = orjson.loads(OpenaiDialect().request(inference_request(BODY), "far").body)

    assert body == {**BODY, "model": "far", "stream_options": {"include_usage": True}}


def test_the_answer_shows_the_public_name() -> None:
    seen = recording("vllm/base/chat_basic")
    answer = OpenaiDialect().answer(seen.request(), "public", 200, seen.answer)

    assert isinstance(answer, EngineResponse)
    assert orjson.loads(answer.body)["model"] == "public"


def test_a_web_page_is_no_answer() -> None:
    failure = OpenaiDialect().answer(inference_request(BODY), "m", 200, b"<html>Sign in</html>")

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


def test_in_a_stream_as_many_choices_must_finish_as_began() -> None:
    decoder = OpenaiDialect().stream(inference_request({**BODY, "n": 2}), "tiny")
    for frame in (b'{"choices":[{"index":0,"finish_reason":"stop"}]}', b'{"choices":[{"index":1}]}'):
        decoder.frame(b"data: " + frame + b"\n\n")

    assert isinstance(decoder.end(), Failure)
    decoder.frame(b'data: {"choices":[{"index":1,"finish_reason":"stop"}]}\n\n')
    assert decoder.end() is None


def test_concurrency_of_an_attached_engine_is_unknown() -> None:
    assert RemoteEngine().concurrency(launch_order()) is None
