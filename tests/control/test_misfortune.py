"""The reason of a death, found in the last lines of a log."""

import pytest

from berth.control.diagnosis import LAST_LINES, LINE_LIMIT, Failure, explain

WRAPPER = (
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
TOO_LONG = "ValueError: User-specified max_model_len (9999) is greater than the derived max_model_len (2048)"
KV = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"

LOGS = {
    "an engine-side error below its wrapper": (
        [
            "INFO ok",
            f"(EngineCore pid=2) ERROR 11-21 03:41:00 [core.py:9] {TOO_LONG}",
            "Traceback (most recent",
            WRAPPER,
        ],
        TOO_LONG,
    ),
    "nothing but a wrapper": ([WRAPPER], WRAPPER.removeprefix("(APIServer pid=1) ")),
    "memory, and an error that follows from it": (
        [f"ERROR [core.py:9] {KV}", "ConnectionResetError: peer", WRAPPER],
        KV,
    ),
    "a port that is taken": (
        ["OSError: [Errno 98] Address already in use", "ValueError: something else"],
        "OSError: [Errno 98] Address already in use",
    ),
    "a port that is taken, said by uvicorn": (
        [
            "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
            "bye",
        ],
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
    ),
    "a wrong option": (
        ["usage: vllm serve [-h]", "vllm serve: error: unrecognized arguments: --nope"],
        "vllm serve: error: unrecognized arguments: --nope",
    ),
    "CUDA": (
        ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "[rank0]: x"],
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
    ),
    "the last of two exceptions": (
        ["KeyError: 'a'", "pydantic_core.ValidationError: b"],
        "pydantic_core.ValidationError: b",
    ),
    "a line that is marked": (["[E] started", "12:00 ERROR no luck", "goodbye"], "12:00 ERROR no luck"),
    "the last line": (["hello", "Loading shards: 5% Completed | 1/20", "goodbye"], "goodbye"),
    "nothing": (["", "  "], ""),
}


@pytest.mark.parametrize("case", LOGS)
def test_the_line_an_operator_needs_is_found(case: str) -> None:
    lines, reason = LOGS[case]
    assert explain(lines).reason == reason


@pytest.mark.parametrize(
    ("line", "hopeless"),
    [
        ("vllm serve: error: unrecognized arguments: --nope", True),
        (TOO_LONG, True),
        (KV, False),
        ("torch.OutOfMemoryError: CUDA out of memory.", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/models/nope/config.json'", True),
    ],
)
def test_what_no_further_start_can_heal(line: str, hopeless: bool) -> None:
    assert explain([line]).hopeless is hopeless


def test_the_evidence_is_the_lines_that_speak_of_errors() -> None:
    lines = ["INFO fine", "ERROR one", "KeyError: 'two'", "INFO bye"]
    assert explain(lines) == Failure(reason="KeyError: 'two'", last_lines=("ERROR one", "KeyError: 'two'"))


def test_the_evidence_is_short() -> None:
    found = explain([f"line {number} {'x' * 1000}" for number in range(100)])
    assert len(found.last_lines) == LAST_LINES
    assert {len(line) for line in found.last_lines} == {LINE_LIMIT}
    assert found.last_lines[-1].startswith("line 99 ")
    assert len(found.reason) == LINE_LIMIT


def test_a_line_that_repeats_is_evidence_once() -> None:
    assert explain(["ERROR a", "ERROR b", *["ERROR a"] * 20]).last_lines == ("ERROR a", "ERROR b")
