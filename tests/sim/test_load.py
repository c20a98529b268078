"""The simulated engine under load, over its wire: what it says about caches, waiting requests and other answers."""

import asyncio
import json
from typing import Any

import pytest

from berth.sim.engine import Engine
from berth.sim.load import divergence
from berth.sim.options import parse_options
from tests.fakes.virtual_time import run
from tests.sim.harness import get, options, running, send_request

LONG: dict[str, Any] = {
    "model": "sim",
    "prompt": list(range(300, 400)),
    "max_tokens": 8,
    "ignore_eos": True,
    "temperature": 0,
}


def usage_of(body: bytes) -> Any:
    """Of a stream, the last one."""
    found = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    return next(one["usage"] for one in reversed(found) if one.get("usage"))


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
def test_cached_tokens_are_reported_as_each_engine_does(dialect: str) -> None:
    body = {key: value for key, value in LONG.items() if key != "ignore_eos" or dialect != "trtllm"}
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with running(dialect, prefix_cache=True) as server:
        whole = [send_request(server.port, "/v1/completions", body).json["usage"] for _ in range(2)]
        stream = usage_of(send_request(server.port, "/v1/completions", streamed).body)
        page = get(server.port, "/metrics").body
    found = [one["prompt_tokens_details"]["cached_tokens"] for one in (*whole, stream)]
    assert found == [0, 96, 96]
    if dialect == "vllm":
        assert b'vllm:prompt_tokens_cached_total{engine="0",model_name="sim"} 192.0' in page


def test_requests_that_wait_for_room_in_the_kv_cache_are_counted_as_such() -> None:
    async def scene() -> list[tuple[int, int]]:
        engine, found = Engine(options(kv_tokens=120, itl_s=1.0)), []

        async def ask() -> None:
            async with engine.track("", 100), engine.slot(), engine.paced(range(100), 3) as clock:
                await clock.until(3)

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(ask())
            for _ in range(3):
                await asyncio.sleep(1.5)
                stats = engine.stats()
                found.append((stats.running, stats.waiting))
                assert stats.kv_usage == pytest.approx(stats.running * 102 / 120, abs=0.02)
        return found

    assert run(scene()) == [(1, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_share_of_the_tokens_differs_in_answers_and_in_scores_alike(dialect: str) -> None:
    asked = {**LONG, "max_tokens": 400, "logprobs": 1}
    with running(dialect) as same, running(dialect, differs=0.1, seed=3) as other:
        reference, differing = [
            send_request(one.port, "/v1/completions", asked).json["choices"][0]["logprobs"]["tokens"]
            for one in (same, other)
        ]
        ids = same.engine.tokenizer.encode("".join(reference))
        scored = {**LONG, "prompt": [*LONG["prompt"], *ids], "max_tokens": 1, "echo": True, "logprobs": 1}
        scores = send_request(other.port, "/v1/completions", scored).json["choices"][0]["logprobs"]
    differences = [one != two for one, two in zip(reference, differing, strict=True)]
    assert 0.05 < sum(differences) / len(differences) < 0.15
    tops = zip(scores["tokens"], scores["top_logprobs"], scores["token_logprobs"], strict=True)
    unlikely = [value < -1 for _token, _top, value in list(tops)[100 : 100 + len(ids)]]
    assert unlikely == differences


def test_prompt_logprobs_of_a_differing_engine_have_the_rank_of_the_given_token() -> None:
    with running("vllm", differs=0.5) as server:
        choice = send_request(server.port, "/v1/completions", {**LONG, "prompt_logprobs": 1}).json["choices"][0]
    ranks = {next(iter(one.values()))["rank"] for one in choice["prompt_logprobs"][1:]}
    assert ranks == {1, 2}


def test_only_words_differ_and_each_time_in_the_same_way() -> None:
    found = [divergence.other(token, 5, 1.0, 0) for token in (3, 258, 259, 260)]
    assert found == [None, None, 260, 259]
    assert divergence.other(300, 5, 0.0, 0) is None


@pytest.mark.parametrize("words", ["--jitter 2", "--prefill-rate x", "--prefill-rate inf", "--differs -1"])
def test_rejects_shares_and_rates_that_are_none(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(words.split())
    assert "must be" in (said := capsys.readouterr().err) or "not a positive number" in said
