"""What Ollama's clients learn of the models, judged by the official one, and what they may not do."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import ollama
import orjson
import pytest
from ollama import ListResponse, ProcessResponse, ShowResponse

from berth.plan import EngineName, Keys, Launch, MemoryEstimate, Plan, Replica, Task
from berth.plan.keys import OPEN
from berth.router.server.ollama_pages import capabilities, loaded, tags
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import ReplicaStatus
from tests.fakes.router import make_plan, publish, replica, replica_state, route
from tests.fakes.router_fixture import RouterFixture


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[ollama.Client]:
    with ollama.Client(router_fixture.url, timeout=10) as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps"])
def test_root_shows_that_it_runs(router_fixture: RouterFixture, method: str, path: str) -> None:
    answer = httpx.request(method, f"{router_fixture.url}{path}")

    assert answer.status_code == 200
    assert bool(answer.content) is (method == "GET")
    assert int(answer.headers["content-length"]) > 0


def test_reports_running_and_version(router_fixture: RouterFixture) -> None:
    running, version = httpx.get(router_fixture.url), httpx.get(f"{router_fixture.url}/api/version")

    assert (running.text, running.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    assert [int(number) for number in version.json()["version"].split(".")] >= [0, 6, 4]


def test_lists_models_by_all_names(router_fixture: RouterFixture, client: ollama.Client) -> None:
    models = {model.model: model for model in client.list().models}

    assert {"chat", "gpt-4o-mini", "org/embed", "loading", "failed"} <= models.keys()
    assert len({model.digest for model in models.values()}) == len(models)
    assert models["chat"].modified_at == datetime.fromtimestamp(1_700_000_000, UTC)
    raw = httpx.get(f"{router_fixture.url}/api/tags")
    ListResponse.model_validate_json(raw.content, strict=True)
    for row in raw.json()["models"]:
        assert row["name"] == row["model"]
        assert len(row["digest"]) == 64
        assert row["details"].keys() == {
            *("parent_model", "format", "family", "families", "parameter_size", "quantization_level"),
        }


def test_ready_models_are_loaded_forever(router_fixture: RouterFixture, client: ollama.Client) -> None:
    models = {model.model: model for model in client.ps().models}

    assert {"chat", "org/embed"} <= models.keys()
    assert models.keys().isdisjoint({"loading", "failed"})
    assert models["chat"].context_length == 4096
    assert models["chat"].expires_at is not None
    assert models["chat"].expires_at.year > 2100
    ProcessResponse.model_validate_json(httpx.get(f"{router_fixture.url}/api/ps").content, strict=True)


@pytest.mark.parametrize("name", ["chat", "chat:latest", "gpt-4o-mini"])
def test_shows_a_model(client: ollama.Client, name: str) -> None:
    shown = client.show(name)

    assert shown.modelinfo is not None
    assert shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"] == 4096
    assert shown.capabilities == ["completion", "tools"]
    assert shown.parameters == "num_ctx 4096"
    assert "FROM org/chat" in (shown.modelfile or "")
    assert "tools" in (shown.template or "")


def test_shows_model_without_unknown_context(router_fixture: RouterFixture, client: ollama.Client) -> None:
    shown = client.show("org/embed")

    assert (shown.capabilities, shown.parameters) == (["embedding"], "")
    raw = httpx.post(f"{router_fixture.url}/api/show", json={"name": "org/embed", "verbose": True})
    ShowResponse.model_validate_json(raw.content, strict=True)
    assert not any(key.endswith("context_length") for key in raw.json()["model_info"])


def test_pull_of_a_planned_model_succeeds(client: ollama.Client) -> None:
    assert client.pull("chat:latest").status == "success"
    assert [part.status for part in client.pull("chat", stream=True)] == ["pulling manifest", "success"]


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        (lambda c: c.pull("nix"), 404, "'nix' does not exist here"),
        (lambda c: list(c.pull("nix", stream=True)), 404, "'nix' does not exist here"),
        (lambda c: c.show("nix"), 404, "'nix' does not exist here"),
        (lambda c: c.delete("chat"), 501, "DELETE /api/delete: not supported. The operator of this server sets"),
        (lambda c: c.copy("chat", "other"), 501, "not supported"),
        (lambda c: c.create("other", from_="chat"), 501, "not supported"),
        (lambda c: c.push("chat"), 501, "not supported"),
    ],
)
def test_clients_cannot_change_models(
    client: ollama.Client, ask: Callable[[ollama.Client], object], status: int, words: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=words) as caught:
        ask(client)

    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The request has no body"),
        (b"{}", "The field 'model' is missing"),
        (b'{"model": 7}', "'model' must be a model name, not 7"),
        (b'{"model": "chat", "stream": 1}', "'stream' must be true or false, not 1"),
    ],
)
def test_invalid_body_is_a_400(router_fixture: RouterFixture, body: bytes, words: str) -> None:
    for path in ("/api/pull", "/api/show"):
        answer = httpx.post(f"{router_fixture.url}{path}", content=body)

        if path == "/api/pull" or b"stream" not in body:
            assert answer.status_code == 400
            assert words in answer.json()["error"]


def test_disconnect_during_request_is_harmless(router_fixture: RouterFixture, client: ollama.Client) -> None:
    before = router_fixture.router.log
    with socket.create_connection(("127.0.0.1", router_fixture.router.plan.listen.port), timeout=5) as leaving:
        leaving.sendall(b"POST /api/show HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")

    assert client.show("chat").capabilities
    assert router_fixture.router.log == before


def test_unknown_paths_and_methods_get_ollamas_error_format(router_fixture: RouterFixture) -> None:
    unknown, method = httpx.post(f"{router_fixture.url}/api/nix"), httpx.get(f"{router_fixture.url}/api/chat")

    assert (unknown.status_code, method.status_code) == (404, 405)
    assert "/api/tags" in unknown.json()["error"]
    assert "this path accepts POST" in method.json()["error"]


def able(one: Replica, *more: Replica) -> list[str]:
    replicas = (one, *more)
    plan: Plan = make_plan("/run", replicas, [route("m", [each.name for each in replicas], task=one.task)])
    return capabilities(plan, plan.models[0])


def engine(name: EngineName, *argv: str, files: dict[str, str] | None = None) -> Replica:
    launch = Launch(argv=("serve", *argv), files=files or {})
    return replace(replica(f"m-{name}", "http://127.0.0.1:1"), engine=name, launch=launch)


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (engine(EngineName.VLLM), []),
        (engine(EngineName.VLLM, "--tool-call-parser", "hermes"), ["tools"]),
        (engine(EngineName.VLLM, "--tool-call-parser=hermes", "--reasoning-parser=qwen3"), ["tools", "thinking"]),
        (engine(EngineName.SGLANG, "--reasoning-parser", "qwen3"), ["thinking"]),
        (
            engine(EngineName.TRTLLM, "--tool_parser", "qwen3", files={"/o": "reasoning_parser: qwen3"}),
            ["tools", "thinking"],
        ),
        (engine(EngineName.SIM), ["tools", "thinking"]),
        (engine(EngineName.SIM, "--no-tools", "--reasoning", "off"), []),
        (replica("m-remote", "http://127.0.0.1:1"), ["tools"]),
    ],
)
def test_capabilities_follow_the_engines_arguments(one: Replica, found: list[str]) -> None:
    assert able(one) == ["completion", *found]


def test_capabilities_are_those_of_any_engine() -> None:
    assert able(engine(EngineName.VLLM), engine(EngineName.SGLANG, "--tool-call-parser", "qwen25")) == [
        *("completion", "tools"),
    ]
    assert able(replica("m-vllm", "http://127.0.0.1:1", task=Task.EMBED)) == ["embedding"]


def test_sizes_are_summed_over_gpus(run_dir: str) -> None:
    memory = MemoryEstimate(weights_bytes=3, kv_bytes_per_token=1, kv_bytes=2, overhead_bytes=4, largest_context=8)
    one = replace(engine(EngineName.VLLM), memory=memory, gpus=(0, 1), context=77)
    plan = make_plan(run_dir, [one])
    publish(plan, replica_state(one.name, ReplicaStatus.READY))
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    worker = Worker(plan, Keys())
    worker.upstreams.poll()

    (listed,) = orjson.loads(tags(worker, {"key": OPEN}).body)["models"]
    (serving,) = orjson.loads(loaded(worker, {"key": OPEN}).body)["models"]
    worker.board.close()

    assert (listed["size"], listed["details"]["format"]) == (6, "safetensors")
    assert (serving["size"], serving["size_vram"], serving["context_length"]) == (18, 18, 77)
