"""Hugging Face's InferenceClient: its chats over the OpenAI API, its text generation over TGI's."""

import os
from typing import Any

import pytest

from tests.clients.scene import KEY, SIMULATED, VARIABLE, Scene, cut

if VARIABLE not in os.environ:
    pytest.skip("huggingface_hub is tried by: make clients-test", allow_module_level=True)

huggingface_hub: Any = pytest.importorskip("huggingface_hub")
errors: Any = pytest.importorskip("huggingface_hub.errors")

HELLO = [{"role": "user", "content": "Hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": CITY}}


def chats(scene: Scene, key: str = KEY) -> Any:
    return huggingface_hub.InferenceClient(base_url=f"{scene.url}/v1", api_key=key, timeout=30)


def generator(scene: Scene, model: str, key: str = KEY) -> Any:
    """TGI has one model for each URL."""
    return huggingface_hub.InferenceClient(model=f"{scene.url}/models/{model}", token=key, timeout=30)


def test_a_chat_says_the_models_own_text(scene: Scene, model: str, text: str) -> None:
    client, how = chats(scene), {"model": model, "temperature": 0, "max_tokens": 400}
    answer = client.chat_completion(HELLO, **how)
    assert answer.choices[0].message.content == text
    assert answer.usage.completion_tokens > 50
    chunks = list(client.chat_completion(HELLO, stream=True, **how))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text


def test_a_tool_is_called_and_its_result_is_answered(scene: Scene, model: str, text: str) -> None:
    answer = chats(scene).chat_completion(HELLO, model=model, tools=[WEATHER], tool_choice="auto", max_tokens=400)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*HELLO, {"role": "assistant", "tool_calls": message.tool_calls}, result]
    answer = chats(scene).chat_completion(history, model=model, tools=[WEATHER], max_tokens=400)
    assert answer.choices[0].message.content == text


def test_an_answer_keeps_to_a_schema(scene: Scene, simulated: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
    answer = chats(scene).chat_completion(HELLO, model=simulated, response_format=form)
    assert answer.choices[0].message.content == '{"city": "Paris"}'


@pytest.mark.parametrize("model", SIMULATED)
def test_text_is_generated(scene: Scene, model: str) -> None:
    client, text = generator(scene, model), scene.texts[model]
    assert client.text_generation("Hello", max_new_tokens=400) == text
    whole = client.text_generation("Hello", max_new_tokens=400, details=True)
    assert whole.generated_text == text
    assert whole.details.generated_tokens > 50
    assert whole.details.finish_reason == "eos_token"


@pytest.mark.parametrize("model", SIMULATED)
def test_generated_text_is_streamed(scene: Scene, model: str) -> None:
    client, text = generator(scene, model), scene.texts[model]
    assert "".join(client.text_generation("Hello", max_new_tokens=400, stream=True)) == text
    *_, last = client.text_generation("Hello", max_new_tokens=400, stream=True, details=True)
    assert last.generated_text == text
    assert last.details.generated_tokens > 50


def test_generated_text_keeps_to_a_schema(scene: Scene, simulated: str) -> None:
    grammar = {"type": "json", "value": CITY}
    assert generator(scene, simulated).text_generation("Where?", grammar=grammar) == '{"city": "Paris"}'


def test_errors_are_the_clients_own(scene: Scene) -> None:
    with pytest.raises(errors.HfHubHTTPError, match="no-such-model"):
        chats(scene).chat_completion(HELLO, model="no-such-model")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        chats(scene, "wrong").chat_completion(HELLO, model="vllm")
    with pytest.raises(errors.ValidationError, match="no-such-model"):
        generator(scene, "no-such-model").text_generation("Hello")
    with pytest.raises(errors.TextGenerationError, match="key"):
        generator(scene, "vllm", "wrong").text_generation("Hello")


def test_a_stream_that_is_cut_raises(scene: Scene, simulated: str) -> None:
    """The clients are kept: one that is dropped closes its streams."""
    client, how = generator(scene, cut(simulated)), {"max_new_tokens": 400}
    with pytest.raises(errors.TextGenerationError):
        list(client.text_generation("Hello", stream=True, **how))
    with pytest.raises(errors.TextGenerationError):
        client.text_generation("Hello", **how)
    client = chats(scene)
    with pytest.raises(errors.HfHubHTTPError):
        client.chat_completion(HELLO, model=cut(simulated))
    with pytest.raises(errors.TextGenerationError):
        list(client.chat_completion(HELLO, model=cut(simulated), stream=True))
