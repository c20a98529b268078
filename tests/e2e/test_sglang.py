"""The real vLLM and the real SGLang with the same weights: each goes on with the streams of the other. Opt-in, since it
takes another 3 GB: `make e2e-sglang`.
"""

import json
import os
from pathlib import Path
from typing import Any

import anthropic
import ollama
import pytest
from openai import OpenAI

from etc.tools.setup.sglang_cpu.install import is_installed
from tests.chaos.observation import Api
from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.killed_streams import Ask, play

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(600)]

BEGINNING = "Every morning the"  # of the text that the model knows
SGLANG = ROOT / ".engines/sglang-cpu"
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SMALL = ["--mem-fraction-static", "0.1", "--max-total-tokens", "8192"]
ASKS: tuple[Ask, ...] = (
    (Api.CHAT, {}),
    (Api.COMPLETIONS, {"prompt": BEGINNING, "max_tokens": 200}),
    (Api.CHAT, {"max_tokens": 100}),
    (Api.CHAT, {}),
)


@pytest.fixture
def home(forked_vllm: Path, tmp_path: Path) -> Path:
    """An engine home with both."""
    if not os.environ.get("E2E_SGLANG") or not is_installed(SGLANG):
        pytest.skip("takes minutes and 3 GB: make e2e-sglang")
    (tmp_path / "vllm").symlink_to(forked_vllm / "vllm")
    (tmp_path / "sglang").symlink_to(SGLANG)
    return tmp_path


@pytest.mark.parametrize("order", [("vllm", "sglang"), ("sglang", "vllm")], ids="-".join)
def test_other_engine_continues_a_stream(home: Path, tiny_model: Path, order: tuple[str, str]) -> None:
    engines = [{"engine": name, "args": SMALL if name == "sglang" else []} for name in order]
    model = {"source": str(tiny_model), "engines": engines, "standby": "hot", "context": 1024}
    with Appliance(json.dumps({"m": model}), BERTH_ENGINE_HOME=str(home)) as berth:
        expected, seen = play(berth, ASKS, least=1)

    assert expected[0].text == json.loads((tiny_model / "script.json").read_text())["paragraph"]
    assert [(one.text, one.finish, one.error) for one in seen] == [(one.text, one.finish, None) for one in expected]


def test_serves_every_client_api(home: Path, tiny_model: Path) -> None:
    """By SGLang alone: with the model's own text, whole and streamed."""
    expected = json.loads((tiny_model / "script.json").read_text())["paragraph"]
    engine = {"engine": "sglang", "args": SMALL}
    models = json.dumps({"m": {"source": str(tiny_model), "engines": [engine], "context": 1024}})
    with Appliance(models, BERTH_ENGINE_HOME=str(home)) as berth:
        berth.wait_ready(600)
        texts = {name: read(berth.url) for name, read in READERS.items()}
        check_counts(berth)
        check_constraints(berth)

    assert texts == dict.fromkeys(READERS, expected)


def test_serves_an_adapter_as_a_model(home: Path, tiny_model: Path, tiny_adapter: Path) -> None:
    """Each of the names says its own text (vLLM: test_vllm_lora.py)."""
    model = {"source": str(tiny_model), "engines": [{"engine": "sglang", "args": SMALL}], "context": 1024}
    models = json.dumps({"m": {**model, "adapters": {"late:v1": str(tiny_adapter)}}})
    folders = {"m": tiny_model, "late:v1": tiny_adapter}
    expected = {name: json.loads((folder / "script.json").read_text())["paragraph"] for name, folder in folders.items()}
    with Appliance(models, BERTH_ENGINE_HOME=str(home)) as berth:
        berth.wait_ready(600)
        texts = {name: of_chat(berth.url, name) for name in expected}

    assert texts == expected


def of_messages(url: str) -> str:
    ask: Any = {"model": "m", "max_tokens": 200, "messages": HELLO}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        block = client.messages.create(**ask).content[0]
        with client.messages.stream(**ask) as stream:
            text = stream.get_final_text()
    assert block.type == "text"
    assert block.text == text
    return text


def of_responses(url: str) -> str:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        answer = client.responses.create(model="m", input="Hello")
        with client.responses.stream(model="m", input="Hello") as stream:
            text = stream.get_final_response().output_text
    assert answer.output_text == text
    return text


def of_ollama(url: str) -> str:
    with ollama.Client(host=url, timeout=60) as client:
        whole = client.chat("m", HELLO).message.content
        text = "".join(part.message.content or "" for part in client.chat("m", HELLO, stream=True))
    assert whole == text
    return text


def of_chat(url: str, model: str = "m") -> str:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        whole = client.chat.completions.create(model=model, messages=HELLO).choices[0].message.content
        chunks = client.chat.completions.create(model=model, messages=HELLO, stream=True)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert whole == text
    return text


READERS = {"chat": of_chat, "messages": of_messages, "responses": of_responses, "ollama": of_ollama}


def check_counts(berth: Appliance) -> None:
    """What is counted ahead is what the same request reports."""
    body = {"model": "m", "messages": HELLO, "tools": [TOOL]}
    counted = berth.http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
    usage = berth.http.post("/v1/messages", json={**body, "max_tokens": 1}).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]


def check_constraints(berth: Appliance) -> None:
    """A forced call has arguments of its schema, and an answer the form that was asked for."""
    forced = {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}}
    (call,) = berth.http.post("/v1/messages", json={"model": "m", "max_tokens": 200, **forced}).json()["content"]
    assert call["name"] == "get_weather"
    assert isinstance(call["input"]["city"], str)
    schema = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 9}}, "required": ["age"]}
    body = {"model": "m", "messages": HELLO, "format": schema, "stream": False, "options": {"num_predict": 100}}
    assert json.loads(berth.http.post("/api/chat", json=body).json()["message"]["content"])["age"] <= 9
