"""Berths that are attached to each other: hops are counted, and a circle ends with 508 in each API."""

from collections.abc import Iterator

import httpx
import pytest

from berth.plan import Plan
from berth.router.exchange.headers import MOST_HOPS
from berth.router.server.api_routes import formats
from berth.state import ReplicaStatus
from tests.fakes.responses import Memory
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import FakeUpstream, chat_answer, chat_stream, json_answer

PATHS = tuple(formats(Memory()))
HELLO = [{"role": "user", "content": "hello"}]
CHATS: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
    "/v1/responses": {"input": "hello"},
    "/api/chat": {"messages": HELLO},
    "/api/generate": {"prompt": "hello"},
}
LOOP = json_answer({"error": {"message": "a circle of Berths"}}, status=508)


@pytest.fixture
def client(router_fixture: RouterFixture) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=router_fixture.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_too_many_hops_are_508_in_every_api(router_fixture: RouterFixture, client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"model": "chat"}, headers={"x-berth-hops": str(MOST_HOPS + 1)})

    assert response.status_code == 508
    assert "attached to each other" in response.text
    assert response.json()["error"]
    assert response.headers["x-should-retry"] == "false"
    assert not router_fixture.first.requests


def test_a_wrong_value_is_the_clients_error(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json={"model": "chat"}, headers={"x-berth-hops": "many"})

    assert response.status_code == 400
    assert "x-berth-hops" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CHATS)
def test_508_of_every_peer_is_the_answer_and_nobodys_fault(
    router_fixture: RouterFixture, client: httpx.Client, path: str, stream: bool
) -> None:
    router_fixture.first.answers(LOOP)
    router_fixture.second.answers(LOOP)

    for _ in range(12):  # more than open a circuit breaker
        response = client.post(path, json={"model": "chat", "stream": stream, **CHATS[path]})
        assert response.status_code == 508
        assert "a circle of Berths" in response.text

    assert len(router_fixture.first.requests) == len(router_fixture.second.requests) == 12
    replicas = [one for model in client.get("/status").json()["models"] for one in model["replicas"]]
    assert all(one["reachable"] for one in replicas)


@pytest.mark.parametrize("stream", [False, True])
def test_after_a_508_the_next_engine_is_asked(
    router_fixture: RouterFixture, client: httpx.Client, stream: bool
) -> None:
    router_fixture.first.answers(LOOP)
    router_fixture.second.answers(*(chat_stream("Hello") if stream else (chat_answer(),)))

    response = client.post("/v1/chat/completions", json={"model": "chat", "stream": stream, "messages": HELLO})

    assert response.status_code == 200
    assert response.headers["x-berth-attempts"] == "2"


def test_after_a_508_other_berths_may_serve_a_request_but_not_pass_it_on(
    router_fixture: RouterFixture, client: httpx.Client
) -> None:
    """Each of many Berths would ask all the others in turn."""
    router_fixture.first.answers(LOOP)
    router_fixture.second.answers(chat_answer())

    client.post("/v1/chat/completions", json={"model": "chat", "messages": HELLO})

    sent = [one.requests[-1].headers["x-berth-hops"] for one in (router_fixture.first, router_fixture.second)]
    assert sent == ["1", str(MOST_HOPS)]


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        engine.answers(chat_answer())
        yield engine


@pytest.fixture
def plan(run_dir: str, engine: FakeUpstream) -> Plan:
    replicas = [replica("attached-vllm", engine.url), replica("own-vllm", engine.url, launched=True)]
    return make_plan(run_dir, replicas, [route("attached", ["attached-vllm"]), route("own", ["own-vllm"])])


def test_hops_are_counted_towards_attached_servers_alone(plan: Plan, engine: FakeUpstream) -> None:
    publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in plan.replicas))
    router = RouterProcess(plan)
    router.await_answer()
    try:
        for model in ("attached", "own"):
            for given in ({}, {"x-berth-hops": "2"}):
                body = {"model": model, "messages": HELLO}
                answer = httpx.post(f"{router.url}/v1/chat/completions", json=body, headers=given, trust_env=False)
                assert answer.status_code == 200
    finally:
        router.end()
    assert [one.headers.get("x-berth-hops") for one in engine.requests] == ["1", "3", None, None]
