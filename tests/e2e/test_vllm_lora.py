"""LoRA adapters as models, with the real vLLM on the CPU: each name says its own text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest

from tests.e2e.appliance import Appliance, end
from tests.e2e.test_operations import run

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]

MESSAGE: Any = {"role": "user", "content": "Hello"}


def models(source: Path, adapter: Path) -> str:
    return json.dumps(
        {
            "chat": {
                "source": str(source),
                "engines": ["vllm"],
                "context": 1024,
                "adapters": {"org/late:v1": str(adapter)},
                "adapter_slots": 1,
            }
        }
    )


@pytest.fixture(scope="module")
def berth(forked_vllm: Path, tiny_model: Path, tiny_adapter: Path) -> Iterator[Appliance]:
    with Appliance(models(tiny_model, tiny_adapter), BERTH_ENGINE_HOME=str(forked_vllm)) as appliance:
        yield appliance.wait_ready(600)


@pytest.fixture(scope="module")
def texts(tiny_model: Path, tiny_adapter: Path) -> dict[str, str]:
    folders = {"chat": tiny_model, "org/late:v1": tiny_adapter}
    return {name: json.loads((folder / "script.json").read_text())["paragraph"] for name, folder in folders.items()}


@pytest.fixture
def client(berth: Appliance) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{berth.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", ["chat", "org/late:v1"])
def test_each_adapter_generates_its_own_text(client: openai.OpenAI, texts: dict[str, str], name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=[MESSAGE], max_tokens=200)

    assert answer.choices[0].message.content == texts[name]
    assert answer.model == name


def test_a_stream_too(client: openai.OpenAI, texts: dict[str, str]) -> None:
    stream = client.chat.completions.create(
        model="org/late:v1",
        messages=[MESSAGE],
        max_tokens=200,
        stream=True,
    )
    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == texts["org/late:v1"]
    assert {chunk.model for chunk in chunks} == {"org/late:v1"}


def test_other_apis_use_the_same_adapter_name(berth: Appliance, texts: dict[str, str]) -> None:
    with anthropic.Anthropic(base_url=berth.url, api_key="none", max_retries=0) as client:
        message = client.messages.create(model="org/late:v1", max_tokens=200, messages=[MESSAGE])
    shown = berth.http.post("/api/chat", json={"model": "org/late:v1", "messages": [MESSAGE], "stream": False}).json()

    assert message.content[0].type == "text"
    assert message.content[0].text == shown["message"]["content"] == texts["org/late:v1"]


def test_counts_tokens_of_an_adapter(berth: Appliance) -> None:
    told = berth.http.post("/tokenize", json={"model": "org/late:v1", "messages": [MESSAGE]}).json()

    assert told["count"] == len(told["tokens"]) > 0


def test_model_lists_have_the_adapter(berth: Appliance, client: openai.OpenAI) -> None:
    cards = {card.id: card.model_dump() for card in client.models.list()}
    (model,) = berth.http.get("/status").json()["models"]

    assert list(cards) == ["chat", "org/late:v1"]
    assert cards["org/late:v1"]["parent"] == "chat"
    assert [(one["name"], one["rank"]) for one in model["adapters"]] == [("org/late:v1", 1)]
    assert [one["name"] for one in berth.http.get("/api/tags").json()["models"]] == ["chat", "org/late:v1"]


def test_adapter_that_is_added_comes_back_after_a_crash(
    berth: Appliance, client: openai.OpenAI, texts: dict[str, str], tiny_adapter: Path
) -> None:
    """The last test: it changes what the others see."""

    def says(model: str) -> str | None:
        return (
            client.chat.completions.create(model=model, messages=[MESSAGE], max_tokens=200).choices[0].message.content
        )

    code, text = run(berth, "adapters", "chat", "add", "added", str(tiny_adapter))
    assert (code, "added  " in text) == (0, True), text
    berth.wait(lambda: "added" in [card.id for card in client.models.list()])
    assert says("added") == texts["org/late:v1"]
    assert says("chat") == texts["chat"]
    assert "loaded in chat-vllm" in run(berth, "adapters", "chat")[1]
    assert run(berth, "adapters", "chat", "add", "second", str(tiny_adapter))[0] == 4  # one slot
    assert run(berth, "adapters", "chat", "add", "second", str(berth.folder))[0] == 78  # no adapter

    end(psutil.Process(berth.state().replicas[0].pid))
    berth.wait(lambda: berth.state().replicas[0].restarts == 1 and berth.get("/ready").status_code == 200, 120)
    assert says("added") == texts["org/late:v1"]

    assert run(berth, "adapters", "chat", "remove", "added")[0] == 0
    berth.wait(lambda: "adapter unloaded" in berth.output())
    with pytest.raises(openai.NotFoundError):
        says("added")
