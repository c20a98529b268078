"""The real vLLM on the CPU, behind Berth: tokens, rankings, scores and classes, against what it says to generate."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.e2e.appliance import Appliance

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]

TOOL: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "a system prompt": {"system": "Be brief."},
    "tools": {"tools": [TOOL]},
    "no thinking": {"chat_template_kwargs": {"enable_thinking": False}},
    "effort": {"reasoning_effort": "low"},
}


def make_classifier(source: Path, folder: Path) -> Path:
    """The tiny model with a head for two classes: rows of what it speaks with. (`--convert classify` would take for
    the head whatever lies in memory, which may be NaN.)
    """
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = weights.pop("lm_head.weight")[:2]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def models(source: Path, classifier: Path) -> str:
    one = {"source": str(source), "engines": ["vllm"], "context": 1024}
    return json.dumps(
        {"chat": one, "embed": {**one, "task": "embed"}, "sort": {**one, "source": str(classifier), "task": "classify"}}
    )


@pytest.fixture(scope="module")
def berth(forked_vllm: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    classifier = make_classifier(tiny_model, tmp_path_factory.mktemp("models") / "sort")
    with Appliance(models(tiny_model, classifier), BERTH_ENGINE_HOME=str(forked_vllm)) as appliance:
        yield appliance.wait_ready(600)


def post(berth: Appliance, path: str, **body: Any) -> Any:
    answer = berth.http.post(path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
def test_token_count_equals_usage_of_the_chat(berth: Appliance, fields: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    if "system" in fields:
        messages.insert(0, {"role": "system", "content": fields["system"]})
    rest = {name: value for name, value in fields.items() if name != "system"}

    told = post(berth, "/tokenize", model="chat", messages=messages, **rest)
    usage = post(berth, "/v1/chat/completions", model="chat", messages=messages, max_tokens=1, **rest)["usage"]

    assert told["count"] == len(told["tokens"]) == usage["prompt_tokens"]


def test_tokenizes_and_detokenizes_a_prompt(berth: Appliance) -> None:
    told = post(berth, "/tokenize", model="chat", prompt="Hello you", return_token_strs=True)
    back = post(berth, "/detokenize", model="chat", tokens=told["tokens"])
    usage = post(berth, "/v1/completions", model="chat", prompt="Hello you", max_tokens=1)["usage"]

    assert back == {"prompt": "Hello you"}
    assert told["count"] == len(told["token_strs"]) == usage["prompt_tokens"]


def test_tgi_tokens_make_up_the_text(berth: Appliance) -> None:
    tokens = post(berth, "/tokenize", model="chat", inputs="Hello you, café 🦊")

    assert tokens[-1]["stop"] == len("Hello you, café 🦊")
    assert all(one["start"] <= one["stop"] <= after["start"] for one, after in itertools.pairwise(tokens))


def test_embedding_model_ranks_scores_and_counts(berth: Appliance) -> None:
    ranked = post(berth, "/v1/rerank", model="embed", query="Hello", documents=["you", "wind", "Hello"])
    scored = post(berth, "/v1/score", model="embed", text_1="Hello", text_2=["you", "wind", "Hello"])
    told = post(berth, "/tokenize", model="embed", prompt="Hello")

    values = [item["score"] for item in scored["data"]]
    assert ranked["results"][0]["index"] == 2
    assert [one["relevance_score"] for one in ranked["results"]] == pytest.approx(sorted(values, reverse=True))
    assert values[2] == pytest.approx(1.0, abs=1e-3)
    assert ranked["usage"]["total_tokens"] > told["count"]


def test_classifier_returns_the_probability_of_each_class(berth: Appliance) -> None:
    data = post(berth, "/classify", model="sort", input=["Hello", "wind"])["data"]

    assert [len(item["probs"]) for item in data] == [2, 2]
    assert {item["label"] for item in data} <= {"a", "b"}
    assert all(sum(item["probs"]) == pytest.approx(1.0, abs=1e-3) for item in data)


def test_classifier_does_not_rank(berth: Appliance) -> None:
    answer = berth.http.post("/v1/rerank", json={"model": "sort", "query": "x", "documents": ["y"]})

    assert answer.status_code == 400
    assert "classifies" in answer.json()["message"]
