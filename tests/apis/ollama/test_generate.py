import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.apis.base import Immediate
from berth.apis.ollama.generate import OllamaGenerate
from berth.apis.ollama.request import COMPLETION_TOKENS
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError
from tests.apis.ollama.documents import GENERATIONS, JSON, mutated
from tests.apis.ollama.test_messages import PNG


def parse(**fields: object) -> InferenceRequest:
    request = OllamaGenerate().parse(orjson.dumps({"model": "m", "prompt": "Hi", **fields}))
    assert isinstance(request, InferenceRequest)
    return request


def test_a_prompt_is_put_into_the_models_template() -> None:
    request = parse(system="Be short.", options={"num_predict": 3})

    assert request.operation is Operation.CHAT
    assert request.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stream": True,
    }
    assert request.include_usage


def test_images_belong_to_the_prompt() -> None:
    text, image = parse(images=[PNG]).body["messages"][0]["content"]

    assert text == {"type": "text", "text": "Hi"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_thinking_can_be_switched_off() -> None:
    assert parse(think=False).body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_a_raw_prompt_goes_to_the_model_as_it_is() -> None:
    request = parse(raw=True, stream=False, format={"type": "object"}, think=True, logprobs=True)

    assert request.operation is Operation.COMPLETION
    assert request.body == {
        "model": "m",
        "prompt": "Hi",
        "max_tokens": COMPLETION_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "logprobs": 1,
    }
    assert request.ignored == ("think",)
    assert not request.stream


def test_a_raw_prompt_may_say_how_much_is_wanted() -> None:
    body = parse(raw=True, options={"num_predict": 7}, logprobs=True, top_logprobs=3).body

    assert (body["max_tokens"], body["logprobs"], body["stream"]) == (7, 3, True)


def test_what_lies_between_two_texts_is_a_completion() -> None:
    request = parse(suffix="!", system="Be short.")

    assert request.operation is Operation.COMPLETION
    assert (request.body["prompt"], request.body["suffix"]) == ("Hi", "!")
    assert request.ignored == ("system",)


def test_the_deprecated_context_is_ignored_and_named() -> None:
    assert parse(context=[1, 2]).ignored == ("context",)


@pytest.mark.parametrize("prompt", [None, ""])
@pytest.mark.parametrize(("keep_alive", "reason"), [({}, "load"), ({"keep_alive": "0s"}, "unload")])
def test_without_a_prompt_the_model_is_loaded_or_unloaded(prompt: str | None, keep_alive: Json, reason: str) -> None:
    answer = OllamaGenerate().parse(orjson.dumps({"model": "m", "prompt": prompt, **keep_alive}))

    assert isinstance(answer, Immediate)
    assert orjson.loads(answer.body)["done_reason"] == reason
    assert orjson.loads(answer.body)["response"] == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{{ .Prompt }}"}, "'template' is not supported"),
        ({"raw": True, "system": "x"}, "'system' is not allowed with 'raw': true"),
        ({"raw": True, "context": [1]}, "'context' is not allowed with 'raw': true"),
        ({"raw": True, "images": [PNG]}, "'images' is not allowed with 'raw': true"),
        ({"suffix": "x", "images": [PNG]}, "'images' is not allowed with 'suffix'"),
        ({"prompt": ["Hi"]}, r"'prompt' must be a string, not \[\"Hi\"\]"),
        ({"images": ["!!"]}, r"'images\.0' must be an image in base64"),
        ({"raw": "yes"}, "'raw' must be true or false"),
    ],
)
def test_what_cannot_be_done_is_refused(fields: Json, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(**fields)


def test_a_stream_and_an_answer_are_written() -> None:
    api, request = OllamaGenerate(), parse(raw=True)

    assert isinstance(api.stream(request), OllamaStream)
    answer = api.answer(request, b'{"choices":[{"text":"Hi","finish_reason":"stop"}]}')
    assert orjson.loads(answer)["response"] == "Hi"


@settings(max_examples=200, deadline=None)
@given(document=st.one_of(JSON, *(mutated(document) for document in GENERATIONS)))
def test_whatever_comes_is_refused_or_fit_for_every_engine(document: object) -> None:
    try:
        request = OllamaGenerate().parse(orjson.dumps(document))
    except InvalidRequestError:
        return
    if isinstance(request, InferenceRequest):
        judge = OpenaiChat() if request.operation is Operation.CHAT else OpenaiCompletions()
        judge.parse(orjson.dumps(request.body))
