"""LiteLLM as a client, with its providers for OpenAI, vLLM, Anthropic and Ollama."""

import gc
import json
import os
from typing import Any

import pytest

from tests.clients.scene import KEY, Scene, cut

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices when it is imported
litellm: Any = pytest.importorskip("litellm", reason="LiteLLM is tried by: make clients-test")

PROVIDERS = ("openai", "hosted_vllm", "anthropic", "ollama_chat")
HELLO = [{"role": "user", "content": "Hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": CITY}}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def ask(scene: Scene, provider: str, model: str, key: str = KEY, **fields: Any) -> Any:
    path = "" if provider in ("anthropic", "ollama_chat") else "/v1"
    return litellm.completion(
        model=f"{provider}/{model}",
        api_base=f"{scene.url}{path}",
        api_key=key,
        extra_headers={"authorization": f"Bearer {key}"},  # the provider for Ollama sends no key of its own
        num_retries=0,
        timeout=30,
        temperature=0,
        **{"messages": HELLO, "max_tokens": 400, **fields},
    )


def joined(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_it_says_the_models_own_text(scene: Scene, provider: str, model: str, text: str) -> None:
    answer = ask(scene, provider, model)
    assert answer.choices[0].message.content == text
    assert answer.usage.completion_tokens > 50
    assert joined(ask(scene, provider, model, stream=True)) == text


def test_a_tool_is_called_and_its_result_is_answered(scene: Scene, provider: str, model: str, text: str) -> None:
    message = ask(scene, provider, model, tools=[WEATHER]).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*HELLO, message.model_dump(), result]
    assert ask(scene, provider, model, messages=history, tools=[WEATHER]).choices[0].message.content == text


def test_an_answer_keeps_to_a_schema(scene: Scene, provider: str, simulated: str) -> None:
    """With Anthropic's API LiteLLM forces a tool call, for models whose names it does not know."""
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
    if (provider, simulated) == ("anthropic", "trtllm"):
        with pytest.raises(litellm.BadRequestError, match="TensorRT-LLM"):
            ask(scene, provider, simulated, response_format=form)
    else:
        answer = ask(scene, provider, simulated, response_format=form)
        assert json.loads(answer.choices[0].message.content) == {"city": "Paris"}


def test_errors_are_the_clients_own(scene: Scene, provider: str) -> None:
    with pytest.raises(litellm.NotFoundError, match="no-such-model"):
        ask(scene, provider, "no-such-model")
    with pytest.raises(litellm.AuthenticationError):
        ask(scene, provider, "vllm", key="wrong")


def test_a_stream_that_is_cut_raises(scene: Scene, provider: str, simulated: str) -> None:
    with pytest.raises((litellm.ServiceUnavailableError, litellm.BadRequestError)):
        joined(ask(scene, provider, cut(simulated), stream=True))
    gc.collect()  # LiteLLM leaves the stream open, and httpx waits for ever where it is closed within a later request
