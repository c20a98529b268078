"""What to write into a client: each of them in its own syntax, with this Berth's address and models."""

import ast
import json
import shlex
import subprocess
import tomllib
from itertools import pairwise

import pytest
import yaml

from berth.boot.connect import clients, snippet
from berth.errors import ConfigError
from berth.plan import Plan, Task
from tests.fakes.router import make_plan, replica, route

URL = "http://box:8000"


@pytest.fixture
def plan() -> Plan:
    tasks = {"chat": Task.GENERATE, "embed": Task.EMBED, "rank": Task.RERANK}
    replicas = [replica(f"{name}-vllm", "http://127.0.0.1:1", task=task) for name, task in tasks.items()]
    chat = route("chat", ["chat-vllm"], aliases=("gpt-4o-mini",), context=4096)
    others = [route(name, [f"{name}-vllm"], task=tasks[name]) for name in ("embed", "rank")]
    return make_plan("/run/x", replicas, [chat, *others])


def text_of(plan: Plan, name: str, *, model: str = "", key: str = "KEY") -> str:
    return snippet(plan, name, model=model, url=URL, key=key)


@pytest.mark.parametrize("name", [one.id for one in clients().values() if one.language == "bash"])
def test_shells_can_run_it(plan: Plan, name: str) -> None:
    text = text_of(plan, name)
    assert subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=True).stderr == b""
    words = shlex.split(text, comments=True)
    assert any(word.startswith((URL, f"OLLAMA_HOST={URL}")) or URL in word for word in words)
    for word, after in pairwise(words):
        if word == "-d" and after.startswith("{"):
            assert json.loads(after)["model"] in ("chat", "rank")


@pytest.mark.parametrize("name", [one.id for one in clients().values() if one.language == "python"])
def test_python_can_run_it(plan: Plan, name: str) -> None:
    constants = [node.value for node in ast.walk(ast.parse(text_of(plan, name))) if isinstance(node, ast.Constant)]
    assert {"KEY", "embed" if name == "embeddings" else "chat"} <= set(constants)
    assert any(isinstance(value, str) and value.startswith(URL) for value in constants)


def test_files_of_settings_are_valid(plan: Plan) -> None:
    codex = tomllib.loads(text_of(plan, "codex"))
    assert codex["model_providers"][codex["model_provider"]]["base_url"] == f"{URL}/v1"
    continue_ = yaml.safe_load(text_of(plan, "continue"))
    assert continue_["models"][0]["model"] == "chat"


def test_every_language_is_checked_above_or_needs_a_runtime() -> None:
    assert {one.language for one in clients().values()} == {"bash", "python", "toml", "yaml", "javascript"}


@pytest.mark.parametrize("name", list(clients()))
def test_nothing_is_left_to_fill_in(plan: Plan, name: str) -> None:
    text = text_of(plan, name)
    assert not any(place in text for place in ("{url}", "{key}", "{model}", "{context}"))


def test_what_is_not_said_comes_from_the_plan(plan: Plan) -> None:
    text = snippet(plan, "llamaindex", model="", url="", key="")
    assert f'api_base="http://127.0.0.1:{plan.listen.port}/v1", api_key="none"' in text
    assert "context_window=4096" in text
    assert 'model="gpt-4o-mini"' in text_of(plan, "langchain", model="gpt-4o-mini")


def test_without_a_client_all_are_listed(plan: Plan) -> None:
    assert [line.split()[0] for line in text_of(plan, "").splitlines()] == list(clients())


@pytest.mark.parametrize(
    ("name", "model", "named"),
    [("emacs", "", "curl, "), ("curl", "embed", "Allowed: chat"), ("rerank", "chat", "Allowed: rank")],
)
def test_mistakes_are_named_with_what_is_allowed(plan: Plan, name: str, model: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        text_of(plan, name, model=model)
