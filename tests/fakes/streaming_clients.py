"""Streams of all client APIs, as their official clients read them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import httpx
import ollama
import openai
import orjson
from anthropic import AnthropicError, AsyncAnthropic
from openai import AsyncOpenAI

HELLO: Any = [{"role": "user", "content": "hello"}]
PATIENCE_S: Final = 120.0


async def chat(url: str, model: str = "chat", **fields: Any) -> AsyncIterator[str]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        async for one in await client.chat.completions.create(model=model, messages=HELLO, stream=True, **fields):
            if one.choices:
                yield one.choices[0].delta.content or ""


async def completion(url: str, model: str = "chat") -> AsyncIterator[str]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        async for one in await client.completions.create(model=model, prompt="hello", stream=True, max_tokens=400):
            yield one.choices[0].text


async def response(url: str, model: str = "chat") -> AsyncIterator[str]:
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client,
        client.responses.stream(model=model, input="hello") as events,
    ):
        async for event in events:
            if event.type == "response.output_text.delta":
                yield event.delta
            elif event.type == "response.failed":
                error = event.response.error
                raise RuntimeError(error and error.message)
        assert (await events.get_final_response()).status == "completed"


async def message(url: str, model: str = "chat") -> AsyncIterator[str]:
    async with (
        AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client,
        client.messages.stream(model=model, messages=HELLO, max_tokens=100) as events,
    ):
        async for text in events.text_stream:
            yield text
        assert (await events.get_final_message()).stop_reason == "end_turn"


async def lines(url: str, model: str = "chat") -> AsyncIterator[str]:
    async with ollama.AsyncClient(host=url, timeout=PATIENCE_S) as client:
        async for part in await client.chat(model, HELLO, stream=True):
            yield part.message.content or ""


async def generated(url: str, model: str = "chat") -> AsyncIterator[str]:
    async with ollama.AsyncClient(host=url, timeout=PATIENCE_S) as client:
        async for part in await client.generate(model, "hello", stream=True):
            yield part.response or ""


async def tgi(url: str, model: str = "chat") -> AsyncIterator[str]:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 100}}
    headers = {"x-berth-model": model}
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("POST", f"{url}/generate_stream", json=body, headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                event = orjson.loads(line.removeprefix("data:"))
                if "error" in event:
                    raise RuntimeError(event["error"])
                yield event["token"]["text"]


APIS: Mapping[str, Callable[..., AsyncIterator[str]]] = {
    "chat": chat,
    "completions": completion,
    "responses": response,
    "anthropic": message,
    "ollama chat": lines,
    "ollama generate": generated,
    "tgi": tgi,
}


async def read(parts: AsyncIterator[str], begun: asyncio.Event) -> str | Exception:
    """The text, or why there is no more of it."""
    text = ""
    try:
        async for part in parts:
            text += part
            if text:
                begun.set()
    except (openai.OpenAIError, AnthropicError, ollama.ResponseError, RuntimeError) as error:
        return error
    finally:
        begun.set()
    return text


async def all_of(asks: Sequence[AsyncIterator[str]], then: Callable[[], None]) -> list[str | Exception]:
    """What they get; `then` is done once all have begun."""
    begun = [asyncio.Event() for _ in asks]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read(ask, event)) for ask, event in zip(asks, begun, strict=True)]
        for event in begun:
            await event.wait()
        await asyncio.to_thread(then)
    return [task.result() for task in tasks]
