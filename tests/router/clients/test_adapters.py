"""LoRA adapters as models of their own, with the official client as the judge."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from berth.plan import Adapter, DialectName
from berth.state import ReplicaStatus
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import FakeUpstream, chat_answer, chat_stream, error_answer

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
ADAPTERS = (Adapter(name="org/tone:v1", source="me/tone", rank=16), Adapter(name="law", source="/data/law"))


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[FakeUpstream, FakeUpstream]]:
    with FakeUpstream() as first, FakeUpstream() as second:
        yield first, second


@pytest.fixture(scope="module")
def router(engines: tuple[FakeUpstream, FakeUpstream]) -> Iterator[RouterProcess]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    replicas = [
        replica("chat-vllm", engines[0].url),
        replica("chat-sglang", engines[1].url, dialect=DialectName.SGLANG),
    ]
    model = replace(route("chat", ["chat-vllm", "chat-sglang"], aliases=("gpt",), context=4096), adapters=ADAPTERS)
    plan = make_plan(run_dir, replicas, [model])
    publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
    router = RouterProcess(plan)
    router.await_answer()
    yield router
    router.end()
    shutil.rmtree(run_dir)


@pytest.fixture(autouse=True)
def _nothing_came_yet(engines: tuple[FakeUpstream, FakeUpstream]) -> None:
    for engine in engines:
        engine.forget()
        engine.answers(chat_answer("hello"))


@pytest.fixture
def client(router: RouterProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


@pytest.mark.parametrize("name", ["org/tone:v1", "law", "chat", "gpt"])
def test_request_names_the_adapter(
    client: openai.OpenAI, engines: tuple[FakeUpstream, FakeUpstream], name: str
) -> None:
    answer = client.chat.completions.create(model=name, messages=HELLO)

    asked = "chat" if name == "gpt" else name
    assert engines[0].requests[0].json["model"] == answer.model == asked


def test_fallback_uses_the_next_engines_spelling(
    client: openai.OpenAI, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    engines[0].answers(error_answer("down", status=500))
    engines[1].answers(*chat_stream("a", "b"))

    chunks = list(client.chat.completions.create(model="org/tone:v1", messages=HELLO, stream=True))

    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "ab"
    assert {chunk.model for chunk in chunks} == {"org/tone:v1"}
    body = engines[1].requests[0].json
    assert (body["model"], body["lora_path"]) == ("chat", "org/tone:v1")


def test_adapter_is_listed_under_its_model(client: openai.OpenAI, router: RouterProcess) -> None:
    cards = {card.id: card.model_dump() for card in client.models.list()}
    (model,) = httpx.get(f"{router.url}/status").json()["models"]
    tags = httpx.get(f"{router.url}/api/tags").json()["models"]

    assert {name: card.get("parent") for name, card in cards.items()} == {
        "chat": None,
        "gpt": None,
        "org/tone:v1": "chat",
        "law": "chat",
    }
    assert cards["law"]["max_model_len"] == 4096
    assert [(one["name"], one["rank"]) for one in model["adapters"]] == [("org/tone:v1", 16), ("law", None)]
    assert [tag["name"] for tag in tags] == ["chat", "gpt", "org/tone:v1", "law"]


def test_adapter_is_ready_with_its_model(router: RouterProcess) -> None:
    answer = httpx.get(f"{router.url}/ready", params={"model": "law"})

    assert (answer.status_code, answer.json()["models"]["law"]["serving"]) == (200, "chat-vllm")


def test_adapter_is_counted_by_its_own_name(client: openai.OpenAI, router: RouterProcess) -> None:
    client.chat.completions.create(model="law", messages=HELLO)

    line = 'berth_requests_total{model="law",operation="chat",status="200"}'
    assert line in httpx.get(f"{router.url}/metrics").text


def test_request_without_model_gets_the_base_model(
    router: RouterProcess, engines: tuple[FakeUpstream, FakeUpstream]
) -> None:
    httpx.post(f"{router.url}/generate", json={"inputs": "hello"})

    assert engines[0].requests[0].json["model"] == "chat"


def test_unknown_name_error_lists_adapters(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Available: chat, gpt, org/tone:v1, law"):
        client.chat.completions.create(model="tone", messages=HELLO)
