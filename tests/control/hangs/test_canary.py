"""The canary, of simulated engines over a socket, and what counts as an answer."""

import json
import math
from dataclasses import replace

import pytest

from berth.canonical import Json
from berth.control.hangs.canary import Canary, CanaryResult, insane
from berth.control.probes import Prober
from berth.plan import DialectName, Replica, Task
from tests.fakes.plans import make_replica
from tests.fakes.ports import free_port
from tests.sim.harness import running, send_request

pytestmark = pytest.mark.anyio
SANE = CanaryResult()


def replica(port: int, dialect: DialectName, task: Task = Task.GENERATE) -> Replica:
    return replace(make_replica(launch=None, port=port), dialect=dialect, task=task, vocab_size=32000)


async def ask(port: int, dialect: str, task: Task = Task.GENERATE, limit_s: float = 5.0) -> CanaryResult:
    async with Prober() as prober:
        return await Canary(prober, limit_s).ask(replica(port, DialectName(dialect), task))


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
async def test_every_engine_answers(dialect: str) -> None:
    with running(dialect, names=("chat",)) as server:
        assert await ask(server.port, dialect) == SANE
        assert server.engine.stats().generation_tokens == 1


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
@pytest.mark.parametrize("task", [Task.EMBED, Task.RERANK, Task.CLASSIFY])
async def test_every_task_has_its_question(dialect: str, task: Task) -> None:
    with running(dialect, names=("chat",), task=task) as server:
        assert await ask(server.port, dialect, task) == SANE
        assert server.engine.stats().requests == 1


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
async def test_engine_that_generates_nothing_does_not_answer(dialect: str) -> None:
    with running(dialect, "wedged", names=("chat",)) as server:
        result = await ask(server.port, dialect, limit_s=0.2)
    assert (result.answered, result.error) == (False, "/v1/completions timed out after 0.2 s")


async def test_error_of_the_engine_is_an_answer_and_a_failure() -> None:
    with running("vllm", "status=500", names=("chat",)) as server:
        result = await ask(server.port, "vllm")
    assert result.answered
    assert result.error.startswith("/v1/completions returned 500: ")


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        ("vllm", "/v1/completions returned 500: "),
        ("sglang", "the log probability of its most probable token is None"),
        ("trtllm", "/v1/completions returned 500: "),
    ],
)
async def test_damaged_weights_show_in_the_numbers(dialect: str, error: str) -> None:
    with running(dialect, "bad-weights", names=("chat",)) as server:
        assert (await ask(server.port, dialect)).error.startswith(error)
        reply = send_request(server.port, "/v1/completions", {"model": "chat", "prompt": ".", "max_tokens": 1})
    assert reply.status == 200  # without log probabilities nothing shows


async def test_closed_port_is_no_answer() -> None:
    assert (await ask(free_port(), "vllm")).answered is False


@pytest.mark.parametrize("status", ["status=400", "status=503", "status=404"])
async def test_question_that_is_not_understood_says_nothing(status: str) -> None:
    with running("vllm", status, names=("chat",)) as server:
        assert await ask(server.port, "vllm") == SANE


def completion(*values: float | None) -> Json:
    return {"choices": [{"text": "!", "logprobs": {"token_logprobs": [*values]}}]}


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (completion(-0.1), ""),
        (completion(0.0), ""),
        (completion(-10.3), ""),  # each of 32,000 tokens is as probable
        (completion(-11.5), "the log probability of its most probable token is -11.5"),
        (completion(None), "the log probability of its most probable token is None"),
        (completion(math.nan), "the log probability of its most probable token is nan"),
        ([], ""),
        ({"choices": 3, "data": "x"}, ""),
        (completion(-9999.0), "the log probability of its most probable token is -9999.0"),
        ({"choices": [{"text": "!", "logprobs": None}]}, ""),
        ({"data": [{"embedding": [0.1, -0.2]}]}, ""),
        ({"data": [{"embedding": [0.1, None]}]}, "its answer has the number None"),
        ({"data": [{"embedding": "AACAPw=="}]}, ""),
        ({"data": [{"probs": [0.5, None]}]}, "its answer has the number None"),
        ({"results": [{"index": 0, "relevance_score": 0.5}]}, ""),
        ({"results": [{"index": 0, "relevance_score": None}]}, "its answer has the number None"),
    ],
)
def test_numbers_must_be_finite_and_possible(document: object, error: str) -> None:
    assert insane(json.dumps(document).encode(), 32000) == error


def test_unknown_vocabulary_is_a_large_one() -> None:
    assert insane(json.dumps(completion(-14.0)).encode(), None) == ""
    assert insane(json.dumps(completion(-15.0)).encode(), None)
