"""LlamaIndex's clients of the OpenAI, Anthropic and Ollama APIs."""

from typing import Any

import pytest

from tests.clients.scene import CLAUDE, KEY, Scene, cut

REASON = "LlamaIndex is tried by: make clients-test"
openai_like: Any = pytest.importorskip("llama_index.llms.openai_like", reason=REASON)
anthropic_llm: Any = pytest.importorskip("llama_index.llms.anthropic", reason=REASON)
ollama_llm: Any = pytest.importorskip("llama_index.llms.ollama", reason=REASON)
llms: Any = pytest.importorskip("llama_index.core.llms", reason=REASON)
tools: Any = pytest.importorskip("llama_index.core.tools", reason=REASON)
prompts: Any = pytest.importorskip("llama_index.core.prompts", reason=REASON)
pydantic: Any = pytest.importorskip("pydantic", reason=REASON)
openai: Any = pytest.importorskip("openai", reason=REASON)
anthropic: Any = pytest.importorskip("anthropic", reason=REASON)
ollama: Any = pytest.importorskip("ollama", reason=REASON)

ERRORS = {  # for an unknown model, for a wrong key, for what an engine did
    "openai": (openai.NotFoundError, openai.AuthenticationError, openai.APIError),
    "anthropic": (anthropic.NotFoundError, anthropic.AuthenticationError, anthropic.APIError),
    "ollama": (ollama.ResponseError, ollama.ResponseError, ollama.ResponseError),
}
Place = pydantic.create_model("Place", city=(str, ...))


def make_openai(scene: Scene, model: str, key: str = KEY) -> Any:
    about = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    return openai_like.OpenAILike(
        api_base=f"{scene.url}/v1", api_key=key, model=model, temperature=0, max_retries=0, **about
    )


def make_anthropic(scene: Scene, model: str, key: str = KEY) -> Any:
    """It takes only the names of Claude's models."""
    return anthropic_llm.Anthropic(
        base_url=scene.url, api_key=key, model=CLAUDE[model], temperature=0, max_retries=0, max_tokens=500
    )


def make_ollama(scene: Scene, model: str, key: str = KEY) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    return ollama_llm.Ollama(base_url=scene.url, model=model, temperature=0, headers=headers, request_timeout=60)


MAKERS = {"openai": make_openai, "anthropic": make_anthropic, "ollama": make_ollama}


@pytest.fixture(params=MAKERS)
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def llm(scene: Scene, api: str, model: str) -> Any:
    return MAKERS[api](scene, model)


def asked(words: str) -> list[Any]:
    return [llms.ChatMessage(role="user", content=words)]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def output_tokens(response: Any) -> int:
    """As the API names them."""
    raw = response.raw if isinstance(response.raw, dict) else dict(response.raw)
    usage = raw.get("usage") or raw
    usage = usage if isinstance(usage, dict) else dict(usage)
    return int(usage.get("completion_tokens") or usage.get("output_tokens") or usage["eval_count"])


def test_it_says_the_models_own_text(llm: Any, text: str) -> None:
    response = llm.chat(asked("Hello"))
    assert response.message.content == text
    assert output_tokens(response) > 50


def test_it_streams_the_models_own_text(llm: Any, text: str) -> None:
    responses = list(llm.stream_chat(asked("Hello")))
    assert len(responses) > 10
    assert "".join(response.delta or "" for response in responses) == text
    assert responses[-1].message.content == text


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(llm: Any, text: str, *, stream: bool) -> None:
    tool = tools.FunctionTool.from_defaults(get_weather)

    def ask(history: list[Any]) -> Any:
        if stream:
            return list(llm.stream_chat_with_tools([tool], chat_history=history))[-1]
        return llm.chat_with_tools([tool], chat_history=history)

    call = ask(asked("What is the weather in Paris?"))
    (wanted,) = llm.get_tool_calls_from_response(call)
    assert (wanted.tool_name, wanted.tool_kwargs) == ("get_weather", {"city": "Paris"})
    result = llms.ChatMessage(
        role="tool", content=get_weather(**wanted.tool_kwargs), additional_kwargs={"tool_call_id": wanted.tool_id}
    )
    answer = ask([*asked("What is the weather in Paris?"), call.message, result])
    assert answer.message.content == text


def test_an_answer_keeps_to_a_schema(scene: Scene, api: str, simulated: str) -> None:
    assert MAKERS[api](scene, simulated).structured_predict(Place, prompts.PromptTemplate("Where?")) == Place(
        city="Paris"
    )


def test_errors_are_the_clients_own(scene: Scene, api: str) -> None:
    unknown_model, wrong_key, _ = ERRORS[api]
    with pytest.raises(unknown_model, match=r"no-such-model|claude-3-haiku-20240307"):
        MAKERS[api](scene, "no-such-model").chat(asked("Hello"))
    with pytest.raises(wrong_key, match=r"(?i)key"):
        MAKERS[api](scene, "vllm", "wrong").chat(asked("Hello"))


def test_a_stream_that_is_cut_raises(scene: Scene, api: str, simulated: str) -> None:
    llm = MAKERS[api](scene, cut(simulated))
    with pytest.raises(ERRORS[api][2]):
        list(llm.stream_chat(asked("Hello")))
    with pytest.raises(ERRORS[api][2]):
        llm.chat(asked("Hello"))
