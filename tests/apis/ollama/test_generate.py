import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import json_text
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


def test_prompt_becomes_a_chat_with_one_message() -> None:
    request = parse(system="Be short.", options={"num_predict": 3})

    assert request.operation is Operation.CHAT
    assert request.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stream": True,
    }
    assert request.include_usage


def test_images_are_part_of_the_prompts_message() -> None:
    text, image = parse(images=[PNG]).body["messages"][0]["content"]

    assert text == {"type": "text", "text": "Hi"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_thinking_can_be_switched_off() -> None:
    assert parse(think=False).body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_raw_prompt_becomes_a_completion() -> None:
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


def test_num_predict_limits_a_raw_prompt() -> None:
    body = parse(raw=True, options={"num_predict": 7}, logprobs=True, top_logprobs=3).body

    assert (body["max_tokens"], body["logprobs"], body["stream"]) == (7, 3, True)


def test_suffix_becomes_a_completion() -> None:
    request = parse(suffix="!", system="Be short.")

    assert request.operation is Operation.COMPLETION
    assert (request.body["prompt"], request.body["suffix"]) == ("Hi", "!")
    assert request.ignored == ("system",)


def test_lists_deprecated_context_as_ignored() -> None:
    assert parse(context=[1, 2]).ignored == ("context",)


@pytest.mark.parametrize("prompt", [None, ""])
@pytest.mark.parametrize(("keep_alive", "reason"), [({}, "load"), ({"keep_alive": "0s"}, "unload")])
def test_request_without_a_prompt_loads_or_unloads(prompt: str | None, keep_alive: Json, reason: str) -> None:
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
def test_rejects_unsupported_fields(fields: Json, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(**fields)


def test_encodes_streams_and_responses() -> None:
    api, request = OllamaGenerate(), parse(raw=True)

    assert isinstance(api.stream(request), OllamaStream)
    answer = api.response(request, b'{"choices":[{"text":"Hi","finish_reason":"stop"}]}')
    assert orjson.loads(answer)["response"] == "Hi"


@settings(max_examples=200, deadline=None)
@given(document=st.one_of(JSON, *(mutated(document) for document in GENERATIONS)))
def test_any_request_is_rejected_or_valid_for_every_engine(document: object) -> None:
    try:
        request = OllamaGenerate().parse(orjson.dumps(document))
    except InvalidRequestError:
        return
    if isinstance(request, InferenceRequest):
        judge = OpenaiChat() if request.operation is Operation.CHAT else OpenaiCompletions()
        judge.parse(json_text.dumps(request.body))
