"""Prompts, lengths and arrivals: the same from the same seed."""

import itertools
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest

from berth.bench import workload
from berth.bench.schedule import arrivals
from berth.bench.workload import PRESETS, Ask, Workload, asks, conversations, fitting, of_file, parse, recorded
from berth.errors import ConfigError
from berth.ipc.journal import NO_TRACE, Record


def taken(shape: Workload, seed: int = 1, count: int = 400, vocab_size: int | None = 32_000) -> list[Ask]:
    return list(itertools.islice(asks(shape, seed, vocab_size), count))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_lengths_that_they_say(name: str) -> None:
    shape = PRESETS[name]
    found = taken(shape, count=200)
    assert fmean(len(one.prompt) for one in found) == pytest.approx(shape.prompt_tokens, rel=0.05)
    assert fmean(one.tokens for one in found) == pytest.approx(shape.output_tokens, rel=0.05)
    assert max(len(one.prompt) + one.tokens for one in found) <= shape.longest


def test_seed_decides_and_another_one_has_other_prompts() -> None:
    first, same, other = (taken(PRESETS["chat"], seed, 20) for seed in (1, 1, 2))
    assert first == same
    assert not {one.prompt[:8] for one in first} & {one.prompt[:8] for one in other}


def test_tokens_are_those_of_ordinary_words() -> None:
    ids = {token for one in taken(PRESETS["chat"], count=50, vocab_size=1000) for token in one.prompt}
    assert (min(ids), max(ids)) == (100, 899)
    assert min(token for one in taken(PRESETS["chat"], count=5, vocab_size=None) for token in one.prompt) >= 1000


def test_agents_share_beginnings_in_groups() -> None:
    found = taken(PRESETS["agent"], count=16)
    shared = int(0.75 * 8192 * 0.8)
    heads = [one.prompt[:shared] for one in found]
    assert len(set(heads)) == 2
    assert heads[0] == heads[7] != heads[8]
    assert len({one.prompt for one in found}) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024/256", (1024, 256, 0.0)),
        ("1024±20%/256", (1024, 256, 0.2)),
        ("64+-5%/8", (64, 8, 0.05)),
        ("rag", (4096, 256, 0.2)),
    ],
)
def test_reads_lengths(text: str, expected: tuple[int, int, float]) -> None:
    shape = parse(text)
    assert (shape.prompt_tokens, shape.output_tokens, shape.spread) == expected


@pytest.mark.parametrize("text", ["", "chats", "0/5", "5/0", "a/b", "5"])
def test_rejects_what_is_no_workload(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a preset nor lengths"):
        parse(text)


def test_workload_has_to_fit_into_the_context() -> None:
    assert fitting(PRESETS["chat"], 8192) is PRESETS["chat"]
    assert fitting(PRESETS["rag"], None) is PRESETS["rag"]
    with pytest.raises(ConfigError, match="the model's context 1024"):
        fitting(PRESETS["rag"], 1024)


@pytest.mark.parametrize("burst", [1.0, 2.0, 0.5])
def test_arrivals_have_their_rate_and_their_bursts(burst: float) -> None:
    times = list(itertools.islice(arrivals(20.0, 3, burst), 4000))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert fmean(gaps) == pytest.approx(0.05, rel=0.1)
    assert stdev(gaps) / fmean(gaps) == pytest.approx(burst, rel=0.1)
    assert times == list(itertools.islice(arrivals(20.0, 3, burst), 4000))


def record(start: float, **fields: Any) -> Record:
    made: dict[str, Any] = {
        "row": 0, "sequence": 1, "start": start, "queue_s": 0.0, "first_token_s": 0.1, "duration_s": 1.0,
        "prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": 0, "frames": 20, "moved_at_token": 0,
        "status": 200, "attempts": 1, "flags": (), "api": "openai", "operation": "chat", "phase": "over",
        "model": "chat", "key": "", "replica": "r", "previous_replica": "", "trace": NO_TRACE, "request_id": "x",
        "rule": "", "error_code": "",
    }  # fmt: skip
    return Record(**{**made, **fields})


def test_recorded_shape_has_lengths_and_arrivals_of_this_model_alone() -> None:
    records = [record(float(at), prompt_tokens=100 + at) for at in range(0, 20, 2)]
    others = [record(5.0, model="other"), record(5.0, status=500), record(5.0, completion_tokens=0)]
    shape = recorded([*records, *others], "chat", 8192)
    assert shape.gap_s == pytest.approx(2.0)
    assert shape.burst == 0.5
    assert {(len(one.prompt), one.tokens) for one in taken(shape)} == {(100 + at, 20) for at in range(0, 20, 2)}
    assert shape.longest == 138
    assert recorded([record(1.0)], "chat", None).gap_s == 0
    with pytest.raises(ConfigError, match="no answered request of 'chat'"):
        recorded([record(1.0, prompt_tokens=9000)], "chat", 8192)


SHAREGPT = '[{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]}, 7, {}]'
LINES = '{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]}\nno JSON\n{"messages": [{"role": "user", "content": "x"}]}\n'  # noqa: E501 - a line of a file


@pytest.mark.parametrize(
    ("text", "expected"),
    [(SHAREGPT, [("Hi", "Hello there")]), (LINES, [("A\nB\nC", "D")]), ('{"messages": "x"}', []), ("", [])],
)
def test_reads_conversations_of_local_files(text: str, expected: list[tuple[str, str]]) -> None:
    assert conversations(text) == expected


def test_texts_of_a_file_begin_with_a_token_of_chance() -> None:
    shape = of_file("a.json", [([7, 8, 9], 4), ([], 4), ([1] * 99, 4)], 50)
    found = taken(shape, count=50)
    assert {(one.prompt[1:], one.tokens) for one in found} == {((7, 8, 9), 4)}
    assert len({one.prompt[0] for one in found}) > 40
    assert shape.longest == 8
    with pytest.raises(ConfigError, match="no conversation"):
        of_file("a.json", [], 50)


def test_every_rejection_names_what_is_allowed() -> None:
    assert "recorded, file:PATH" in workload.problem("x", "y").allowed
    assert replace(PRESETS["chat"], name="y").name == "y"
