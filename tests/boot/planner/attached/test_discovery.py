"""Attached servers are asked what they are, over a socket."""

import time

import pytest

from berth.boot.planner.attached import requests as discovery_requests
from berth.boot.planner.attached.address import Address
from berth.boot.planner.attached.discovery import discover_all, unasked
from berth.boot.planner.attached.requests import discover
from berth.dialects.attached.detection import Discovery
from berth.plan import DialectName
from tests.fakes.ports import free_port
from tests.fakes.upstream import HANG, RESET, FakeUpstream, Request, Step, answer, error_answer, json_answer

MODELS = {"object": "list", "data": [{"id": "theirs", "owned_by": "vllm", "max_model_len": 512}]}


def address(port: int, **fields: str) -> Address:
    return Address(url=f"http://127.0.0.1:{port}", api_paths=("/v1", ""), name="m", **fields)


def infinity(request: Request) -> tuple[Step, ...]:
    models = {"data": [{"id": "e", "owned_by": "infinity", "stats": {}}]}
    return (json_answer(models) if request.path == "/models" else error_answer("Not Found", status=404),)


def test_asks_by_get_and_with_the_key() -> None:
    with FakeUpstream() as server:
        server.answers(json_answer(MODELS))
        found = discover(address(server.port, api_key="s3cret"))
    assert found == Discovery(dialect=DialectName.VLLM, names=("theirs",), context=512)
    assert [(one.method, one.path, one.headers["authorization"]) for one in server.requests] == [
        ("GET", "/v1/models", "Bearer s3cret")
    ]


def test_finds_the_api_at_the_root() -> None:
    with FakeUpstream() as server:
        server.answers_with(infinity)
        assert discover(address(server.port)).api_path == ""


def test_each_path_is_asked_for_once() -> None:
    with FakeUpstream() as server:
        server.answers(error_answer("Not Found", status=404))
        assert discover(address(server.port)).dialect is DialectName.OPENAI
        paths = [request.path for request in server.requests]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("step", [HANG, RESET, answer(b"x" * (discovery_requests.MOST_BYTES + 1))])
def test_silence_and_endless_answers_are_no_server(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_requests, "TIMEOUT_S", 0.5)
    with FakeUpstream() as server:
        server.answers(step)
        began = time.monotonic()
        assert not discover(address(server.port)).reached
        assert time.monotonic() - began < 5


def test_late_answers_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_requests, "TIMEOUT_S", 0.0)
    with FakeUpstream() as server:
        assert not discover(address(server.port)).reached
        assert server.requests == []


def test_all_are_asked_in_their_order() -> None:
    with FakeUpstream() as server:
        server.answers(json_answer(MODELS))
        found = discover_all([address(free_port()), address(server.port)])
    assert [one.reached for one in found] == [False, True]
    assert discover_all([]) == []


def test_unasked_servers_have_the_likeliest_address() -> None:
    assert unasked([address(1), Address(url="http://h", api_paths=("", "/v1"), name="m")]) == [
        Discovery(reached=False, api_path="/v1"),
        Discovery(reached=False, api_path=""),
    ]
