"""The tool calls of streams as engines send them: which frames belong to one call."""

from itertools import count
from typing import Any

import orjson
import pytest

from berth.canonical import Failure, Json
from berth.dialects.registry import DIALECTS
from berth.dialects.tool_calls import ToolCalls, is_object
from berth.plan import DialectName
from tests.fakes.cpu_time import cpu_s
from tests.fakes.recordings import inference_request

Entry = Json


def entry(arguments: str | None = None, *, name: str | None = None, **more: Any) -> Entry:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**more, "function": function}


def joined(*frames: list[Entry], only_first: bool = False) -> list[tuple[int, str, str, str]]:
    """As a client joins them: index, id, name and arguments of each call."""
    calls = ToolCalls("r_0", only_first=only_first)
    found: dict[int, list[str]] = {}
    for frame in frames:
        delta: Json = {"tool_calls": [dict(one) for one in frame]}
        calls.correct(delta)
        for one in delta.get("tool_calls", ()):
            call = found.setdefault(one["index"], ["", "", ""])
            call[0] += one.get("id") or ""
            call[1] += one["function"].get("name") or ""
            call[2] += one["function"].get("arguments") or ""
    return [(index, *texts) for index, texts in found.items()]  # type: ignore[misc] # three texts


A, B = '{"a":1}', '{"a":2}'
TWO = [(0, "c1", "f", A), (1, "c2", "f", B)]
SPLIT: dict[str, tuple[list[list[Entry]], list[tuple[int, str, str, str]]]] = {
    "one index, ids": ([[entry(A, name="f", index=0, id="c1")], [entry(B, name="f", index=0, id="c2")]], TWO),
    "no index, ids": ([[entry(A, name="f", id="c1")], [entry(B, name="f", id="c2")]], TWO),
    "no index, in one frame": ([[entry(A, name="f", id="c1"), entry(B, name="f", id="c2")]], TWO),
    "one index, in one frame": ([[entry(A, name="f", index=0, id="c1"), entry(B, name="f", index=0, id="c2")]], TWO),
    "one index, in pieces": (
        [
            [entry("", name="f", index=0, id="c1")],
            [entry('{"a"', index=0)],
            [entry(":1}", index=0)],
            [entry("", name="f", index=0, id="c2")],
            [entry(B, index=0)],
        ],
        TWO,
    ),
    "no index, in pieces": (
        [[entry("", name="f", id="c1")], [entry(A)], [entry("", name="f", id="c2")], [entry('{"a":')], [entry("2}")]],
        TWO,
    ),
    "the id in every frame": (
        [[entry("", name="f", id="c1")], [entry("", name="f", id="c2")], [entry(A, id="c1")], [entry(B, id="c2")]],
        TWO,
    ),
    "other names, without arguments": (
        [[entry("", name="f", index=0, id="c1")], [entry("", name="g", index=0, id="c2")]],
        [(0, "c1", "f", ""), (1, "c2", "g", "")],
    ),
    "no ids, one index": (
        [[entry(A, name="f", index=0)], [entry(B, name="f", index=0)]],
        [(0, "call_r_0_0", "f", A), (1, "call_r_0_1", "f", B)],
    ),
    "neither ids nor indexes": (
        [[entry(A, name="f")], [entry(B, name="g")]],
        [(0, "call_r_0_0", "f", A), (1, "call_r_0_1", "g", B)],
    ),
    "an index that was given to another": (
        [[entry(A, name="f", index=0, id="c1")], [entry(B, name="f", index=0, id="c2")], [entry(A, name="f", index=1)]],
        [*TWO, (2, "call_r_0_2", "f", A)],
    ),
    "indexes from 1": (
        [[entry(A, name="f", index=1, id="c1")], [entry(B, name="f", index=2, id="c2")]],
        [(1, "c1", "f", A), (2, "c2", "f", B)],
    ),
    "all calls in each frame, without indexes": (
        [[entry("", name="f", id="c1"), entry("", name="g", id="c2")], [entry(A), entry(B)]],
        [(0, "c1", "f", A), (1, "c2", "g", B)],
    ),
    "the name repeated": (
        [[entry('{"a"', name="f", index=0)], [entry(":1}", name="f", index=0)], [entry("", name="f", index=0)]],
        [(0, "call_r_0_0", "f", A)],
    ),
    "a new id in each frame": (
        [[entry(piece, name="f", index=0, id=f"x{n}")] for n, piece in enumerate(['{"a"', ":", "1", "}"])],
        [(0, "x0", "f", A)],
    ),
    "nested objects in pieces": (
        [[entry('{"b":', name="f", index=0)], [entry('{"c":1}', name="f", index=0)], [entry("}", name="f", index=0)]],
        [(0, "call_r_0_0", "f", '{"b":{"c":1}}')],
    ),
}


@pytest.mark.parametrize(("frames", "expected"), SPLIT.values(), ids=SPLIT)
def test_joins_what_belongs_together(frames: list[list[Entry]], expected: list[tuple[int, str, str, str]]) -> None:
    assert joined(*frames) == expected


@pytest.mark.parametrize("indexed", [True, False], ids=["one index", "no index"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_any_number_of_calls_in_pieces_of_any_size(size: int, indexed: bool) -> None:
    """Every call arrives whole, however its frames are cut."""
    expected = [(n, f"c{n}", "f", orjson.dumps({"n": n, "text": "}{" * n}).decode()) for n in range(5)]
    frames = []
    for _, call_id, name, arguments in expected:
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        more: Json = {"index": 0} if indexed else {}
        frames += [[entry(pieces[0], name=name, id=call_id, **more)], *([entry(piece, **more)] for piece in pieces[1:])]

    assert joined(*frames) == expected
    assert joined(*frames, only_first=True) == expected[:1]


def test_type_is_always_given() -> None:
    delta: Json = {"tool_calls": [entry(A, name="f", type=None), entry(B, name="g", type="custom")]}

    assert ToolCalls("r", only_first=False).correct(delta)
    assert [one["type"] for one in delta["tool_calls"]] == ["function", "custom"]


@pytest.mark.parametrize("arguments", ["true", "[]", "{"])
def test_stream_of_a_forced_call_ends_with_a_failure(arguments: str) -> None:
    for finish, choice in (("stop", "required"), ("tool_calls", "required"), ("length", "required"), ("stop", "auto")):
        body = {"model": "m", "messages": [], "stream": True, "tool_choice": choice}
        decoder = DIALECTS[DialectName.VLLM].stream(inference_request(body), "m")
        begun = {"index": 0, "delta": {"tool_calls": [entry(arguments[:2], name="f", index=0, id="c")]}}
        ended = {"index": 0, "delta": {"tool_calls": [entry(arguments[2:], index=0)]}, "finish_reason": finish}
        for one in (begun, ended):
            decoder.feed(b"data: " + orjson.dumps({"id": "r", "created": 1, "choices": [one]}) + b"\n\n")

        failed = choice == "required" and finish != "length"
        assert isinstance(decoder.failure, Failure) == failed
        assert not failed or (decoder.failure is not None and decoder.failure.code == "schema_not_kept")


@pytest.mark.unmeasured  # it measures time
def test_cost_is_linear_in_calls_and_frames() -> None:
    def seconds(calls: int) -> float:
        ids = count()
        frame = [entry(A, name="f", id=f"c{next(ids)}") for _ in range(calls)]
        later = [[entry(B, name="f", id=f"c{next(ids)}", index=0)] for _ in range(calls)]
        return cpu_s(lambda: joined(frame, *later))

    assert seconds(4000) < 2.5 * seconds(2000) + 0.02


def test_only_the_ends_of_a_long_text_are_checked() -> None:
    assert is_object("{" + "x" * (1 << 20) + "}")
    assert not is_object("[" + "x" * (1 << 20) + "]")
    assert not is_object("{" + "x" * 1000 + "}")


@pytest.mark.parametrize("text", ['{"a": Infinity}', '{"a": "\\udc00"}', " {} ", '{"a": 1, "a": 2}'])
def test_object_in_the_widest_sense(text: str) -> None:
    assert is_object(text)
