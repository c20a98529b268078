"""The real vLLM on the CPU, asked through Anthropic's API by its official client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, ToolUseBlock

from tests.e2e.appliance import Appliance

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
BOTH_WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def client(forked_vllm: Path, tiny_model: Path) -> Iterator[anthropic.Anthropic]:
    models = json.dumps({"chat": {"source": str(tiny_model), "engines": ["vllm"], "context": 1024}})
    with Appliance(models, BERTH_ENGINE_HOME=str(forked_vllm)) as berth:
        berth.wait_ready(600)
        with anthropic.Anthropic(base_url=berth.url, api_key="none", max_retries=0, timeout=60) as client:
            yield client


@pytest.fixture(scope="module")
def paragraph(tiny_model: Path) -> str:
    text: str = json.loads((tiny_model / "script.json").read_text())["paragraph"]
    return text


def ask(client: anthropic.Anthropic, *, streamed: bool, **fields: Any) -> Message:
    wanted: dict[str, Any] = {"model": "chat", "max_tokens": 200, "messages": HELLO, **fields}
    if not streamed:
        answer: Message = client.messages.create(**wanted)
        return answer
    with client.messages.stream(**wanted) as stream:
        return stream.get_final_message()


@BOTH_WAYS
def test_more_tokens_than_fit_are_asked_for_and_all_of_the_text_comes(
    client: anthropic.Anthropic, paragraph: str, streamed: bool
) -> None:
    answer = ask(client, streamed=streamed, max_tokens=32_000 if streamed else 1024)

    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": paragraph}]
    assert answer.stop_reason == "end_turn"


@BOTH_WAYS
def test_continues_a_begun_response(client: anthropic.Anthropic, paragraph: str, streamed: bool) -> None:
    begun = paragraph[: paragraph.index(" climbs")]

    answer = ask(client, streamed=streamed, messages=[*HELLO, {"role": "assistant", "content": begun}])

    assert answer.content[0].to_dict()["text"] == paragraph.removeprefix(begun)


@BOTH_WAYS
def test_reports_the_stop_sequence(client: anthropic.Anthropic, streamed: bool) -> None:
    answer = ask(client, streamed=streamed, stop_sequences=["iron"])

    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "iron")


@BOTH_WAYS
def test_calls_a_tool_and_uses_its_result(client: anthropic.Anthropic, streamed: bool) -> None:
    answer = ask(client, streamed=streamed, tools=[WEATHER], tool_choice={"type": "any"})
    (call,) = answer.content
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input, answer.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")

    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Rain."}]}
    talk = [*HELLO, answer.to_param(), {"role": "user", "content": [result]}]

    assert ask(client, streamed=streamed, messages=talk, tools=[WEATHER]).content


def test_token_count_equals_usage_of_the_message(client: anthropic.Anthropic) -> None:
    prompt: Any = {"messages": HELLO, "system": "Be short.", "tools": [WEATHER]}

    usage = ask(client, streamed=False, **prompt).usage

    assert client.messages.count_tokens(model="chat", **prompt).input_tokens == (
        usage.input_tokens + (usage.cache_read_input_tokens or 0)
    )


def test_rejects_a_prompt_over_the_context_with_both_numbers(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 1024 maximum"):
        ask(client, streamed=True, messages=[{"role": "user", "content": "Hello " * 3000}])
