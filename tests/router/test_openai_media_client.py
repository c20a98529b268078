"""The official client's audio, images and moderations, over a router in front of scripted engines."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.fakes.stage import Stage
from tests.fakes.upstream import RESET, answer, error_answer, json_answer

SOUND = ("a.wav", b"RIFF\x00\xff\r\n\r\n--x" * 1000, "audio/wav")
PICTURE = {"created": 1, "data": [{"b64_json": "QUJD"}]}


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


def test_a_file_is_transcribed_by_the_model_of_an_alias(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(json_answer({"text": "hello"}))
    stage.second.answers(json_answer({"text": "hello"}))

    told = client.audio.transcriptions.create(model="gpt-4o-mini", file=SOUND, language="en")

    asked = (*stage.first.requests, *stage.second.requests)[0]
    assert told.text == "hello"
    assert asked.path == "/v1/audio/transcriptions"
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert SOUND[1] in asked.body
    assert b"gpt-4o-mini" not in asked.body


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word about translations
def test_plain_text_comes_back_as_plain_text(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(answer(b"1\n00:00 hello", headers="content-type: text/plain; charset=utf-8\r\n"))

    told: object = client.audio.translations.create(model="solo", file=SOUND, response_format="srt")
    raw = httpx.post(
        f"{stage.url}/v1/audio/translations", files={"file": SOUND}, data={"model": "solo"}, trust_env=False
    )

    assert told == raw.text == "1\n00:00 hello"
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["x-request-id"]
    assert stage.first.requests[0].path == "/v1/audio/translations"


def test_speech_is_bytes(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(answer(b"ID3\x00\xff", headers="content-type: audio/mpeg\r\n"))

    told = client.audio.speech.create(model="solo", voice="alloy", input="hello")

    assert told.content == b"ID3\x00\xff"
    assert told.response.headers["content-type"] == "audio/mpeg"


def test_images_and_moderations_are_json(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(json_answer(PICTURE))
    picture = client.images.generate(model="solo", prompt="a fox")
    stage.first.answers(json_answer({"id": "m", "model": "solo", "results": []}))
    judged = client.moderations.create(model="solo", input="hello")

    assert picture.data is not None
    assert picture.data[0].b64_json == "QUJD"
    assert judged.results == []


def test_the_next_engine_is_asked_when_one_fails(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(RESET)
    stage.second.answers(json_answer({"text": "hello"}))
    told = client.audio.transcriptions.create(model="chat", file=SOUND)

    assert told.text == "hello"
    assert stage.first.requests[0].body == stage.second.requests[0].body


@pytest.mark.parametrize("status", [404, 405, 501])
def test_engines_without_the_path_are_named(stage: Stage, client: openai.OpenAI, status: int) -> None:
    stage.first.answers(error_answer("Not Found", status=status))

    with pytest.raises(openai.BadRequestError, match=r"solo.*/v1/audio/speech") as caught:
        client.audio.speech.create(model="solo", voice="alloy", input="hello")
    assert caught.value.param == "model"


def test_an_engine_may_refuse_or_say_nothing(stage: Stage, client: openai.OpenAI) -> None:
    stage.first.answers(error_answer("'voice' is unknown", status=400))
    with pytest.raises(openai.BadRequestError, match="voice"):
        client.audio.speech.create(model="solo", voice="alloy", input="hello")
    stage.first.answers(answer(b"", headers="content-type: audio/mpeg\r\n"))
    with pytest.raises(openai.InternalServerError, match="empty"):
        client.audio.speech.create(model="solo", voice="alloy", input="hello")


def test_tensorrt_llm_has_none_of_it(stage: Stage, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="TensorRT-LLM serves no audio"):
        client.images.generate(model="strict", prompt="a fox")
    assert stage.strict.requests == []


@pytest.mark.parametrize("error", [{"error": {"message": "boom"}}, {"object": "error", "message": "boom"}])
def test_an_error_with_200_is_the_engines_failure(
    stage: Stage, client: openai.OpenAI, error: dict[str, object]
) -> None:
    stage.first.answers(json_answer(error))

    with pytest.raises(openai.InternalServerError, match="boom"):
        client.images.generate(model="solo", prompt="a fox")


def test_a_file_over_the_limit_is_refused(stage: Stage, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="BERTH_MAX_BODY") as caught:
        client.audio.transcriptions.create(model="solo", file=("a.wav", bytes(1 << 20)))

    assert caught.value.status_code == 413
    assert stage.first.requests == []


def test_bad_forms_and_models_are_refused(stage: Stage, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nix"):
        client.audio.transcriptions.create(model="nix", file=SOUND)
    with pytest.raises(openai.BadRequestError, match="stream"):
        client.audio.transcriptions.create(model="solo", file=SOUND, stream=True)
    plain = httpx.post(f"{stage.url}/v1/audio/transcriptions", content=b"{}", trust_env=False)
    assert plain.status_code == 400
    assert "multipart/form-data" in plain.json()["error"]["message"]
