"""The check of a candidate, of simulated engines over a socket."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from berth.control.hangs.canary import Canary
from berth.control.migrating.examination import PROMPTS, Examination, Finding
from berth.control.probes import Prober
from berth.plan import DialectName, Replica, Task
from tests.fakes.plans import make_replica
from tests.fakes.ports import free_port
from tests.fakes.upstream import (
    CLOSE,
    FakeUpstream,
    Request,
    Step,
    answer,
    chat_answer,
    chat_stream,
    error_answer,
    json_answer,
)
from tests.sim.harness import running

pytestmark = pytest.mark.anyio


def replica(port: int, dialect: str, task: Task = Task.GENERATE) -> Replica:
    made = make_replica(launch=None, port=port)
    return replace(made, dialect=DialectName(dialect), task=task, vocab_size=32000)


async def check(candidate: Replica, stable: Replica | None = None) -> Finding:
    async with Prober() as prober:
        return await Examination(prober, Canary(prober, 30), 30).check(candidate, stable)


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
async def test_a_sane_candidate_may_get_requests(dialect: str) -> None:
    with running(dialect, names=("chat",)) as server, running("vllm", names=("chat",)) as other:
        found = await check(replica(server.port, dialect), replica(other.port, "vllm"))
        alone = await check(replica(server.port, dialect))

    assert (found.error, alone) == ("", Finding(summary="4 answers are sane"))
    assert found.summary.startswith("4 answers are sane, ")
    assert found.summary.endswith("with the same text as now")


async def test_other_tasks_are_asked_once() -> None:
    with running("vllm", names=("chat",), task=Task.EMBED) as server:
        found = await check(replica(server.port, "vllm", Task.EMBED))
    assert found == Finding(summary="its answer is sane")


@pytest.mark.parametrize("task", [Task.GENERATE, Task.EMBED])
async def test_its_own_probes_are_of_what_the_model_does(task: Task) -> None:
    async def probe(*faults: str) -> str:
        with running("vllm", *faults, names=("chat",), task=task) as server:
            async with Prober() as prober:
                examination = Examination(prober, Canary(prober, 30), 30)
                return await examination.probe(replica(server.port, "vllm", task), 5)

    assert await probe() == ""
    assert await probe("status=500")


async def test_a_candidate_that_fails_gets_none() -> None:
    with running("vllm", "status=500", names=("chat",)) as server:
        assert "returned 500" in (await check(replica(server.port, "vllm"))).error


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (chat_answer(""), "no text for"),
        (chat_answer("!" * 40), "consists of '!'"),
        (chat_answer("Hello"), ""),
        (chat_answer("Hello").replace(b'"stop"', b"null  "), "no finish reason or usage"),
        (error_answer("no", status=400), "completion: no"),
        (error_answer("no", status=503), "chat: no"),
    ],
)
async def test_texts_must_be_sane(answer: bytes, error: str) -> None:
    with FakeUpstream() as engine:
        engine.answers(answer)
        async with Prober() as prober:
            asked = Examination(prober, Canary(prober, 5), 5)
            text, wrong = await asked.ask(replica(int(engine.url.rpartition(":")[2]), "vllm"), PROMPTS[0])
    assert error in wrong
    assert bool(text) or bool(wrong)


def answering(*, schema: str, stream: tuple[Step, ...] = ()) -> Callable[[Request], tuple[Step, ...]]:
    def steps(request: Request) -> tuple[Step, ...]:
        body = request.json
        if "prompt" in body:
            choice = {"index": 0, "text": "x", "finish_reason": "length"}
            return (json_answer({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),)
        if body.get("stream"):
            return stream or (*chat_stream("Hello"), CLOSE)
        return (chat_answer(schema if "response_format" in body else "Hello"),)

    return steps


GOOD = '{"answer": "yes", "sure": true}'


@pytest.mark.parametrize(
    ("own", "other", "error"),
    [
        (GOOD, GOOD, ""),
        ("yes", GOOD, "its answer does not match the requested schema"),
        ('{"answer": "yes"}', GOOD, "its answer does not match the requested schema"),
        ("yes", "yes", ""),  # the replica that serves does no better
    ],
)
async def test_a_schema_is_kept_if_it_was_before(own: str, other: str, error: str) -> None:
    with FakeUpstream() as candidate, FakeUpstream() as stable:
        candidate.answers_with(answering(schema=own))
        stable.answers_with(answering(schema=other))
        ports = [int(one.url.rpartition(":")[2]) for one in (candidate, stable)]
        found = await check(replica(ports[0], "vllm"), replica(ports[1], "vllm"))
    assert found.error == error


async def test_a_stream_must_end() -> None:
    with FakeUpstream() as engine:
        unended = answer(b"data: {}\n\n", headers="content-type: text/event-stream\r\n")
        engine.answers_with(answering(schema=GOOD, stream=(unended,)))
        found = await check(replica(int(engine.url.rpartition(":")[2]), "vllm"))
    assert found.error == "its stream does not end (200)"


async def test_an_engine_that_cannot_be_reached_or_asked_is_not_fit() -> None:
    async with Prober() as prober:
        asked = Examination(prober, Canary(prober, 5), 5)
        port = free_port()
        assert "cannot connect" in (await asked.ask(replica(port, "vllm"), "Hello"))[1]
        assert "cannot connect" in await asked.fits(replica(port, "vllm"))
        assert "cannot connect" in await asked.streams(replica(port, "vllm"))


async def test_a_model_without_chats_is_asked_for_completions() -> None:
    def steps(request: Request) -> tuple[Step, ...]:
        if "chat" in request.path:
            return (error_answer("no chat template", status=400),)
        if request.json.get("stream"):
            return (answer(b"data: [DONE]\n\n", headers="content-type: text/event-stream\r\n"),)
        choice = {"index": 0, "text": "It rains.", "finish_reason": "length"}
        return (json_answer({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}),)

    with FakeUpstream() as engine:
        engine.answers_with(steps)
        found = await check(replica(int(engine.url.rpartition(":")[2]), "vllm"))
    assert found == Finding(summary="4 answers are sane")
