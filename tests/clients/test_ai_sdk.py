"""The AI SDK (npm `ai`) with its providers for OpenAI, OpenAI-compatible servers, Anthropic and Ollama."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scene import EMBED, KEY, VARIABLE, Scene, cut, thinks

NODE = Path(__file__).resolve().parents[2] / ".clients/node"
APIS = ("chat", "responses", "compatible", "anthropic", "ollama")

if VARIABLE not in os.environ:
    pytest.skip("the AI SDK is tried by: make clients-test", allow_module_level=True)


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def play(case: str, scene: Scene, *more: str, key: str = KEY) -> dict[str, Any]:
    """What the case printed. It is run through a link, so that Node.js looks for packages beside the link."""
    links = ["--preserve-symlinks", "--preserve-symlinks-main"]
    command = [str(NODE / "bin/node"), *links, str(NODE / f"cases/{case}.mjs"), scene.url, key, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def check_usage(usage: dict[str, Any]) -> None:
    assert usage["inputTokens"] > 0
    assert usage["outputTokens"] > 50


def test_it_says_the_models_own_text(scene: Scene, api: str, model: str, text: str) -> None:
    told = play("text", scene, api, model)
    assert told.get("text") == text, told
    assert told["finishReason"] == "stop"
    check_usage(told["usage"])


def test_it_streams_the_models_own_text(scene: Scene, api: str, model: str, text: str) -> None:
    told = play("stream", scene, api, model)
    assert told.get("text") == text, told
    assert told["pieces"] > 10
    check_usage(told["usage"])


@pytest.mark.parametrize("way", ["whole", "stream"])
def test_a_tool_is_called_and_its_result_is_answered(scene: Scene, api: str, model: str, text: str, way: str) -> None:
    told = play("tool", scene, api, model, way)
    assert told.get("calls") == [["get_weather", {"city": "Paris"}]], told
    assert told["results"] == ["sunny in Paris"]
    assert told["text"] == text


def test_an_answer_keeps_to_a_schema(scene: Scene, api: str, simulated: str) -> None:
    """With Anthropic's API the AI SDK forces a tool call, for models whose names it does not know."""
    told = play("schema", scene, api, simulated)
    if (api, simulated) == ("anthropic", "trtllm"):
        assert "TensorRT-LLM" in told["error"]["message"], told
    else:
        assert told.get("output") == {"city": "Paris"}, told


@pytest.mark.parametrize("api", ["responses", "compatible", "anthropic", "ollama"])
def test_reasoning_stands_beside_the_answer(scene: Scene, api: str, simulated: str) -> None:
    """The provider for OpenAI reads none from chats, and from responses only summaries."""
    told = play("reasoning", scene, api, thinks(simulated))
    assert told == {way: [scene.thoughts, scene.texts[simulated]] for way in ("whole", "streamed")}


def test_errors_are_the_clients_own(scene: Scene, api: str) -> None:
    kind = "OllamaError" if api == "ollama" else "AI_APICallError"
    unknown = play("text", scene, api, "no-such-model")["error"]
    assert (unknown["name"], unknown["status"]) == (kind, 404), unknown
    assert "no-such-model" in unknown["message"]
    wrong = play("text", scene, api, "vllm", key="wrong")["error"]
    assert (wrong["name"], wrong["status"]) == (kind, 401), wrong


def test_a_stream_that_is_cut_fails(scene: Scene, api: str, simulated: str) -> None:
    for case in ("stream", "text"):
        told = play(case, scene, api, cut(simulated))
        assert cut(simulated) in told["error"]["message"], told


def test_texts_are_embedded(scene: Scene) -> None:
    first, *others = play("embed", scene, EMBED)["told"]
    assert [len(vector) for vector in first] == [256, 256]
    assert first[0] != first[1]
    for other in others:
        assert other[0] == pytest.approx(first[0], abs=1e-6)
