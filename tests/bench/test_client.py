"""Requests to an engine over the wire, and what can be wrong with its answers."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from berth.bench.client import EngineClient, completion
from berth.bench.window import Sample
from berth.bench.workload import Ask
from berth.plan import DialectName, Launch
from tests.fakes.plans import make_replica
from tests.sim.harness import running

ASK = Ask(prompt=tuple(range(300, 364)), tokens=12)
REPLICA = replace(make_replica(launch=Launch(argv=("x",))), served_name="sim")


def asked(*faults: str, count: int = 1, **options: Any) -> list[Sample]:
    """One after the other, on one connection if it holds."""

    async def scene(port: int) -> list[Sample]:
        client = EngineClient(replace(REPLICA, url=f"http://127.0.0.1:{port}"), "key")
        samples = [Sample(scheduled=0, asked_prompt=64, asked_tokens=12) for _ in range(count)]
        for sample in samples:
            await client.ask(ASK, sample)
        client.close()
        await asyncio.sleep(0)
        return samples

    with running("vllm", *faults, api_key="key", **options) as server:
        return asyncio.run(scene(server.port))


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
def test_every_token_has_a_time_and_the_engine_counts_what_was_asked(dialect: str) -> None:
    async def scene(port: int) -> Sample:
        client = EngineClient(replace(REPLICA, url=f"http://127.0.0.1:{port}", dialect=DialectName(dialect)))
        sample = Sample(scheduled=0, asked_prompt=64, asked_tokens=12)
        await client.ask(ASK, sample)
        client.close()
        return sample

    with running(dialect, itl_s=0.001) as server:
        sample = asyncio.run(scene(server.port))
    assert sample.error == ""
    assert (sample.prompt_tokens, sample.tokens, len(sample.frames)) == (64, 12, 12)
    assert list(sample.frames) == sorted(sample.frames)


def test_known_prompt_is_reported_as_cached() -> None:
    first, second = asked(count=2, prefix_cache=True)
    assert (first.cached_tokens, second.cached_tokens) == (0, 63)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("status=503", "status 503"),
        ("reset-before", "Connection"),
        ("cut-after=3", "the stream has no end"),
        ("close-after=3", "the connection ended within an answer"),
        ("error-frame=3", "EngineCore"),
    ],
)
def test_failure_is_the_error_of_its_request(fault: str, error: str) -> None:
    (sample,) = asked(fault)
    assert error in sample.error
    assert not sample.ok


def test_request_after_a_failure_has_a_new_connection() -> None:
    first, second = asked("reset-before@1", count=2)
    assert (bool(first.error), second.error) == (True, "")


def test_no_engine_is_an_error() -> None:
    async def scene() -> Sample:
        client = EngineClient(replace(REPLICA, url="unix:/nowhere/engine.sock"))
        sample = Sample(scheduled=0, asked_prompt=64, asked_tokens=12)
        await client.ask(ASK, sample)
        with pytest.raises(OSError, match="No such file"):
            await client.call("/tokenize", {})
        return sample

    assert "FileNotFoundError" in asyncio.run(scene()).error


def test_whole_answers_are_json_or_an_error() -> None:
    async def scene(port: int) -> Any:
        client = EngineClient(replace(REPLICA, url=f"http://127.0.0.1:{port}"))
        found = await client.call("/tokenize", {"model": "sim", "prompt": "The night"})
        with pytest.raises(ValueError, match="status 404"):
            await client.call("/nothing", {})
        client.close()
        return found

    with running() as server:
        assert asyncio.run(scene(server.port))["count"] == 2


def test_everything_is_said_explicitly() -> None:
    body = completion(REPLICA, ASK)
    assert (body["temperature"], body["n"], body["ignore_eos"], body["min_tokens"], body["max_tokens"]) == (
        *(0, 1, True, 12, 12),
    )
    assert body["prompt"] == list(ASK.prompt)
