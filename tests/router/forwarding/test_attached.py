"""Attached servers behind a whole router: whose fault an error is, and what a request may cost."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from berth.plan import DialectName, Keys, Replica
from berth.state import ReplicaStatus
from tests.fakes.attached import (
    AttachedServer,
    ImageServer,
    LlamacppPythonServer,
    LlamacppServer,
    MlxServer,
    Serve,
    StartingBerth,
    TransformersServer,
)
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import RESET, FakeUpstream, Request, Step, answer, chat_frame, chunk, stream_head

OPENAI = DialectName.OPENAI
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
CUT = (stream_head(), chunk(chat_frame("one", role=True)), chunk(chat_frame("one ")), 0.05, RESET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A router in front of servers of one model, m-0, m-1 and so on."""

    router: RouterProcess
    upstreams: Sequence[FakeUpstream]

    def ask(self, body: dict[str, Any] | None = None, path: str = "chat/completions") -> httpx.Response:
        given = {"messages": [{"role": "user", "content": "hello"}]} if body is None else body
        return httpx.post(f"{self.router.url}/v1/{path}", json={"model": "m", **given}, timeout=10)

    def inferences(self) -> list[int]:
        """How many requests each server got for an inference."""
        return [sum(request.method == "POST" for request in upstream.requests) for upstream in self.upstreams]

    def reasons(self) -> list[str]:
        (model,) = httpx.get(f"{self.router.url}/status").json()["models"]
        return [row["reason"] for row in model["replicas"]]


Start = Callable[..., Served]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a router in front of these servers, of dialect `openai` unless `dialects` are given."""
    folders: list[str] = []
    upstreams: list[FakeUpstream] = []
    routers: list[RouterProcess] = []

    def started(
        *serves: Serve, known: tuple[str, ...] | None = None, dialects: Sequence[DialectName] = (), **fields: object
    ) -> Served:
        folders.append(tempfile.mkdtemp(prefix="br-"))
        for serve in serves:
            upstreams.append(FakeUpstream().__enter__())
            upstreams[-1].answers_with(serve)
        replicas = [
            _attached(f"m-{number}", upstream.url, dialect, fields)
            for number, (upstream, dialect) in enumerate(
                zip(upstreams, dialects or [OPENAI] * len(serves), strict=True)
            )
        ]
        plan = make_plan(folders[-1], replicas)
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY, continues=known) for one in replicas))
        routers.append(RouterProcess(plan, Keys()))
        routers[-1].await_answer()
        return Served(router=routers[-1], upstreams=tuple(upstreams))

    yield started
    for router in routers:
        router.end()
    for upstream in upstreams:
        upstream.__exit__(None, None, None)
    for folder in folders:
        shutil.rmtree(folder)


def _attached(name: str, url: str, dialect: DialectName, fields: dict[str, object]) -> Replica:
    return replace(replica(name, url, dialect=dialect), **fields)  # type: ignore[arg-type] # any field


def test_wrong_key_or_name_is_the_operators_fault_and_a_good_peer_is_asked(start: Start) -> None:
    served = start(LlamacppServer(key="other"), TransformersServer(), LlamacppServer())

    reply = served.ask()

    assert (reply.status_code, reply.headers["x-berth-attempts"]) == (200, "3")
    first, second, third = served.reasons()
    assert "Invalid API Key (check this engine's `api_key`" in first
    assert "Server is pinned to 'org/pinned'" in second
    assert third == ""
    assert served.router.log.count("attached server refuses requests") == 2


@pytest.mark.parametrize("serve", [LlamacppServer(key="other"), LlamacppServer(models=("a",)), TransformersServer()])
def test_wrong_key_or_name_is_never_the_clients_400(start: Start, serve: AttachedServer) -> None:
    reply = start(serve).ask()

    assert reply.status_code == 502
    assert "check this engine's `api_key`, `model` and `url` in BERTH_MODELS" in reply.json()["error"]["message"]


@pytest.mark.parametrize("serve", [LlamacppServer(), MlxServer()], ids=["500", "404"])
def test_what_one_client_gets_wrong_ejects_no_server(start: Start, serve: AttachedServer) -> None:
    served = start(serve)

    wrong = [served.ask({"messages": [{"role": "user", "content": IMAGE}]}) for _ in range(8)]

    assert {reply.status_code for reply in wrong} == {400}
    assert "support" in wrong[0].json()["error"]["message"]
    assert served.router.left_alone() == set()
    assert served.ask().status_code == 200


def test_chats_eject_no_server_of_images(start: Start) -> None:
    served = start(ImageServer())

    assert {served.ask().status_code for _ in range(8)} == {400}
    assert served.router.left_alone() == set()


def test_request_id_is_a_uuid(start: Start) -> None:
    served = start(LlamacppPythonServer())

    assert [served.ask().status_code for _ in range(2)] == [200, 200]
    ids = [uuid.UUID(request.headers["x-request-id"]) for request in served.upstreams[0].requests]
    assert {one.version for one in ids} == {4}
    assert len({*ids}) == 2


def test_rejection_without_a_word_is_no_clients_fault(start: Start) -> None:
    served = start(lambda _: (answer(b"", status=400, headers=""),), LlamacppServer())

    assert (served.ask().status_code, served.inferences()) == (200, [1, 1])


@pytest.mark.parametrize(
    ("serve", "seconds"), [(StartingBerth(), "7"), (LlamacppServer(loading=True), "5")], ids=["Berth", "llama.cpp"]
)
def test_loading_server_is_a_503_to_try_again(start: Start, serve: AttachedServer, seconds: str) -> None:
    reply = start(serve).ask()

    assert (reply.status_code, reply.headers["retry-after"]) == (503, seconds)
    assert reply.json()["error"]["code"] == "model_not_ready"
    assert reply.headers.get("x-should-retry") != "false"


def test_loading_server_is_passed_over(start: Start) -> None:
    assert start(StartingBerth(), LlamacppServer()).ask().status_code == 200


# what a request may cost


def gone(_: Request) -> tuple[Step, ...]:
    """The process has ended, as llama.cpp's does over some grammars."""
    return (RESET,)


@pytest.mark.parametrize("serves", [(MlxServer(), MlxServer()), (gone, gone)], ids=["its thread", "its process"])
def test_request_that_stopped_a_server_is_not_sent_to_the_next(start: Start, serves: Sequence[Serve]) -> None:
    served = start(*serves)

    reply = served.ask({"prompt": ["a", "b"]}, "completions")

    assert reply.status_code == 502
    assert "not sent to m-1, which the request might stop too" in reply.json()["error"]["message"]
    assert served.inferences() == [1, 0]
    assert "request withheld" in served.router.log


def test_server_that_had_stopped_before_is_passed_over(start: Start) -> None:
    stopped = MlxServer()
    stopped.stopped = True
    served = start(stopped, MlxServer())
    served.ask()

    assert (served.ask().status_code, served.inferences()) == (200, [2, 1])


def test_lost_connection_of_a_server_that_is_well_goes_to_the_next(start: Start) -> None:
    def drops(request: Request) -> tuple[Step, ...]:
        return (RESET,) if request.method == "POST" else LlamacppServer()(request)

    served = start(drops, LlamacppServer())

    assert (served.ask().status_code, served.inferences()) == (200, [1, 1])


def test_server_of_another_kind_gets_what_stopped_one(start: Start) -> None:
    served = start(gone, gone, LlamacppServer(), dialects=(OPENAI, OPENAI, DialectName.LLAMACPP))

    assert (served.ask().status_code, served.inferences()) == (200, [1, 0, 1])


def test_two_lost_connections_are_enough(start: Start) -> None:
    served = start(gone, gone, gone, dialects=[DialectName.VLLM] * 3)

    assert served.ask().status_code == 502
    assert served.inferences() == [1, 1, 0]


# continuation


@pytest.mark.parametrize(
    ("known", "given", "status"),
    [((), None, 400), (("chat",), None, 200), (None, None, 200), (("chat",), False, 400), ((), True, 200)],
)
def test_answer_that_a_chat_brings_is_not_begun_again(
    start: Start, known: tuple[str, ...] | None, given: bool | None, status: int
) -> None:
    served = start(LlamacppServer(), known=known, continues=given)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "one"}]

    reply = served.ask({"messages": turns, "continue_final_message": True, "add_generation_prompt": False})

    assert reply.status_code == status
    assert status == 200 or "begin a new answer" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("known", "given", "status"),
    [
        *((None, None, "cut"), ((), None, "cut"), (("completion",), None, "cut"), (("chat",), False, "cut")),
        *((("chat",), None, "whole"), (None, True, "whole")),
    ],
)
def test_cut_chat_is_continued_only_by_a_server_that_is_known_to(
    start: Start, known: tuple[str, ...] | None, given: bool | None, status: str
) -> None:
    served = start(lambda _: CUT, LlamacppServer(), known=known, weights="w", continues=given)

    text = served.ask({"messages": [{"role": "user", "content": "hello"}], "stream": True}).text

    assert ("[DONE]" in text, '"error"' in text) == ((True, False) if status == "whole" else (False, True))
    chats = [request.json for request in served.upstreams[1].requests if request.path.endswith("/chat/completions")]
    turns = [(turn["role"], turn["content"]) for chat in chats for turn in chat["messages"][1:]]
    assert turns == ([("assistant", "one ")] if status == "whole" else [])
