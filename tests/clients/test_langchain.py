"""LangChain's own clients of the OpenAI, Responses, Anthropic and Ollama APIs."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.scene import EMBED, KEY, Scene, cut, thinks

REASON = "LangChain is tried by: make clients-test"
langchain_openai: Any = pytest.importorskip("langchain_openai", reason=REASON)
langchain_anthropic: Any = pytest.importorskip("langchain_anthropic", reason=REASON)
langchain_ollama: Any = pytest.importorskip("langchain_ollama", reason=REASON)
messages: Any = pytest.importorskip("langchain_core.messages", reason=REASON)
openai: Any = pytest.importorskip("openai", reason=REASON)
anthropic: Any = pytest.importorskip("anthropic", reason=REASON)
ollama: Any = pytest.importorskip("ollama", reason=REASON)

Make = Callable[..., Any]
WEATHER = {
    "title": "get_weather",
    "description": "The weather in a city.",
    "type": "object",
    "properties": {"city": {"type": "string", "description": "its name"}},
    "required": ["city"],
    "additionalProperties": False,
}
PARIS = {"city": "Paris"}
ERRORS = {  # for an unknown model, for a wrong key, for what an engine did
    "openai": (openai.NotFoundError, openai.AuthenticationError, openai.APIError),
    "responses": (openai.NotFoundError, openai.AuthenticationError, (openai.APIError, ValueError)),
    "anthropic": (anthropic.NotFoundError, anthropic.AuthenticationError, anthropic.APIError),
    "ollama": (ollama.ResponseError, ollama.ResponseError, ollama.ResponseError),
}


def make_openai(scene: Scene, model: str, key: str = KEY, **more: Any) -> Any:
    url = f"{scene.url}/v1"
    return langchain_openai.ChatOpenAI(
        base_url=url, api_key=key, model=model, temperature=0, max_retries=0, stream_usage=True, **more
    )


def make_responses(scene: Scene, model: str, key: str = KEY) -> Any:
    return make_openai(scene, model, key, use_responses_api=True)


def make_anthropic(scene: Scene, model: str, key: str = KEY) -> Any:
    return langchain_anthropic.ChatAnthropic(
        base_url=scene.url, api_key=key, model=model, temperature=0, max_retries=0, max_tokens=500
    )


def make_ollama(scene: Scene, model: str, key: str = KEY, **more: Any) -> Any:
    headers = {"headers": {"authorization": f"Bearer {key}"}}
    return langchain_ollama.ChatOllama(base_url=scene.url, model=model, temperature=0, client_kwargs=headers, **more)


MAKERS: dict[str, Make] = {
    "openai": make_openai,
    "responses": make_responses,
    "anthropic": make_anthropic,
    "ollama": make_ollama,
}


@pytest.fixture(params=MAKERS)
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def chat(scene: Scene, api: str, model: str) -> Any:
    return MAKERS[api](scene, model)


def said(message: Any) -> str:
    """Its text, however the API's content is built."""
    return str(message.text)


def joined(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def check_usage(message: Any) -> None:
    usage = message.usage_metadata
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 50
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_it_says_the_models_own_text(chat: Any, text: str) -> None:
    answer = chat.invoke("Hello")
    assert said(answer) == text
    check_usage(answer)


def test_it_streams_the_models_own_text(chat: Any, text: str) -> None:
    chunks = list(chat.stream("Hello"))
    assert len(chunks) > 10
    answer = joined(chunks)
    assert said(answer) == text
    check_usage(answer)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One for all: LangChain keeps its asynchronous connections beyond a client's life."""
    with asyncio.Runner() as runner:
        yield runner


async def all_of(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def test_the_asynchronous_client_streams_the_same(chat: Any, text: str, loop: asyncio.Runner) -> None:
    assert said(joined(loop.run(all_of(chat.astream("Hello"))))) == text


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(chat: Any, text: str, *, stream: bool) -> None:
    able = chat.bind_tools([WEATHER])
    asked = [messages.HumanMessage("What is the weather in Paris?")]
    call = joined(list(able.stream(asked))) if stream else able.invoke(asked)
    (wanted,) = call.tool_calls
    assert (wanted["name"], wanted["args"]) == ("get_weather", PARIS)
    assert wanted["id"]
    result = messages.ToolMessage("sunny", tool_call_id=wanted["id"])
    history = [*asked, messages.AIMessage(call.content, tool_calls=call.tool_calls), result]
    answer = joined(list(able.stream(history))) if stream else able.invoke(history)
    assert said(answer) == text


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_from_a_stored_response(scene: Scene, simulated: str, *, stream: bool) -> None:
    """Only what is new is sent, and the model reads all of it."""
    chat = make_openai(scene, simulated, use_responses_api=True, use_previous_response_id=True)
    able = chat.bind_tools([WEATHER])
    asked = [messages.HumanMessage("What is the weather in Paris?")]
    call = joined(list(able.stream(asked))) if stream else able.invoke(asked)
    history = [*asked, call, messages.ToolMessage("sunny", tool_call_id=call.tool_calls[0]["id"])]
    answer = joined(list(able.stream(history))) if stream else able.invoke(history)
    assert said(answer) == scene.texts[simulated]
    assert answer.response_metadata["id"] != call.response_metadata["id"]
    assert answer.usage_metadata["input_tokens"] > call.usage_metadata["input_tokens"]


@pytest.mark.parametrize("api", ["anthropic", "ollama"])
def test_reasoning_stands_beside_the_answer(scene: Scene, api: str, simulated: str) -> None:
    chat = MAKERS[api](scene, thinks(simulated), **({"reasoning": True} if api == "ollama" else {}))
    for answer in (chat.invoke("Hello"), joined(list(chat.stream("Hello")))):
        assert said(answer) == scene.texts[simulated]
        thoughts = [block["reasoning"] for block in answer.content_blocks if block["type"] == "reasoning"]
        assert "".join(thoughts) == scene.thoughts


def test_an_answer_keeps_to_a_schema(scene: Scene, api: str, simulated: str) -> None:
    structured = MAKERS[api](scene, simulated).with_structured_output(WEATHER, method="json_schema")
    assert structured.invoke("Where?") == PARIS


def test_a_tool_call_keeps_to_a_schema(scene: Scene, api: str, simulated: str) -> None:
    """TensorRT-LLM cannot be made to call a tool, and Ollama's API cannot ask for it."""
    structured = MAKERS[api](scene, simulated).with_structured_output(WEATHER, method="function_calling")
    if simulated == "trtllm" and api != "ollama":
        with pytest.raises(ERRORS[api][2], match="TensorRT-LLM"):
            structured.invoke("Where?")
    else:
        assert structured.invoke("Where?") == PARIS


def test_errors_are_the_clients_own(scene: Scene, api: str) -> None:
    unknown_model, wrong_key, _ = ERRORS[api]
    with pytest.raises(unknown_model, match="no-such-model"):
        MAKERS[api](scene, "no-such-model").invoke("Hello")
    with pytest.raises(wrong_key, match=r"(?i)key"):
        MAKERS[api](scene, "vllm", "wrong").invoke("Hello")


def test_a_stream_that_is_cut_raises(scene: Scene, api: str, simulated: str) -> None:
    chunks = []
    with pytest.raises(ERRORS[api][2]):
        chunks.extend(MAKERS[api](scene, cut(simulated)).stream("Hello"))
    with pytest.raises(ERRORS[api][2]):
        MAKERS[api](scene, cut(simulated)).invoke("Hello")


def test_texts_are_embedded(scene: Scene) -> None:
    url = f"{scene.url}/v1"
    by_openai = langchain_openai.OpenAIEmbeddings(
        base_url=url, api_key=KEY, model=EMBED, check_embedding_ctx_length=False, max_retries=0
    )
    headers = {"headers": {"authorization": f"Bearer {KEY}"}}
    by_ollama = langchain_ollama.OllamaEmbeddings(base_url=scene.url, model=EMBED, client_kwargs=headers)
    vectors = by_openai.embed_documents(["red sails", "stone walls"])
    assert [len(vector) for vector in vectors] == [256, 256]
    assert vectors[0] != vectors[1]
    assert by_ollama.embed_query("red sails") == pytest.approx(vectors[0], abs=1e-6)
