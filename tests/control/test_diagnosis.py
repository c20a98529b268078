"""Causes of exits: the log, the signal and the OOM counters."""

from pathlib import Path

import pytest

from berth.control.diagnosis import LAST_LINES, MAX_TEXT, WINDOW_S, Failure, FailureDiagnosis, explain_log
from berth.control.supervisord_client import Process, ProcessState, SupervisordClient
from berth.errors import ControlError
from berth.host.oom import Kills

KILLED = Process(state=ProcessState.EXITED, exit_code=-1)
EXITED = Process(state=ProcessState.EXITED, exit_code=1)


class Log(SupervisordClient):
    """supervisord's log, without a supervisord."""

    def __init__(self, signal: str | None) -> None:
        super().__init__(Path("/nowhere"))
        self.signal = signal

    async def last_signal(self, replica: str) -> str:
        if self.signal is None:
            raise ControlError(replica)
        return self.signal


class Kernel:
    def __init__(self) -> None:
        self.kills = 0

    def read(self) -> Kills:
        return Kills(container=self.kills, at_limit=self.kills, limit_bytes=2**30)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.mark.anyio
async def test_oom_kill_explains_the_next_exits_once(kernel: Kernel) -> None:
    diagnosis = FailureDiagnosis(Log("SIGKILL"), kernel.read)
    diagnosis.sample(0)
    kernel.kills = 1
    first = await diagnosis.diagnose([("a", KILLED, ["bye"]), ("b", EXITED, ["EngineDeadError: x"])], 2)
    second = await diagnosis.diagnose([("c", KILLED, [])], 3)
    assert first["a"].out_of_memory.startswith("the container's memory limit of 1.0 GiB")
    assert first["b"].out_of_memory == first["a"].out_of_memory
    assert (first["a"].signal, first["b"].signal) == ("SIGKILL", "")
    assert (second["c"].out_of_memory, second["c"].signal) == ("", "SIGKILL")


@pytest.mark.anyio
async def test_oom_kill_explains_exits_within_a_minute(kernel: Kernel) -> None:
    for later_s, explained in ((WINDOW_S - 1, True), (2 * WINDOW_S, False)):
        diagnosis = FailureDiagnosis(Log(""), kernel.read)
        diagnosis.sample(0)
        kernel.kills += 1
        for moment in range(1, int(later_s)):
            diagnosis.sample(moment)
        found = await diagnosis.diagnose([("a", EXITED, [])], later_s)
        assert bool(found["a"].out_of_memory) is explained


@pytest.mark.anyio
async def test_counts_oom_kills_while_control_was_down(kernel: Kernel) -> None:
    before = FailureDiagnosis(Log(""), kernel.read)
    assert before.latest is None
    before.sample(0)
    kernel.kills = 1
    after = FailureDiagnosis(Log(""), kernel.read)
    after.sample(0, before.latest)
    assert (await after.diagnose([("a", EXITED, [])], 1))["a"].out_of_memory


@pytest.mark.anyio
@pytest.mark.parametrize(
    "process",
    [
        Process(state=ProcessState.EXITED, exit_code=2),
        Process(state=ProcessState.BACKOFF, spawn_error="no such file"),
    ],
)
async def test_oom_kill_does_not_explain_a_failed_start(kernel: Kernel, process: Process) -> None:
    diagnosis = FailureDiagnosis(Log(""), kernel.read)
    diagnosis.sample(0)
    kernel.kills = 1
    assert not (await diagnosis.diagnose([("a", process, [])], 1))["a"].out_of_memory
    assert (await diagnosis.diagnose([("b", None, [])], 2))["b"].out_of_memory  # the kill is still there to explain


@pytest.mark.anyio
async def test_signal_is_unknown_without_supervisord(kernel: Kernel) -> None:
    found = await FailureDiagnosis(Log(None), kernel.read).diagnose([("a", KILLED, ["KeyError: 'x'"])], 0)
    assert (found["a"].signal, found["a"].reason) == ("", "KeyError: 'x'")


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
    "only a wrapper": ([WRAPPER], WRAPPER.removeprefix("(APIServer pid=1) ")),
    "memory, and an error that follows from it": (
        [f"ERROR [core.py:9] {KV}", "ConnectionResetError: peer", WRAPPER],
        KV,
    ),
    "a port in use": (
        ["OSError: [Errno 98] Address already in use", "ValueError: something else"],
        "OSError: [Errno 98] Address already in use",
    ),
    "a port in use, reported by uvicorn": (
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
    "a line marked as an error": (["[E] started", "12:00 ERROR no luck", "goodbye"], "12:00 ERROR no luck"),
    "the last line": (["hello", "Loading shards: 5% Completed | 1/20", "goodbye"], "goodbye"),
    "nothing": (["", "  "], ""),
}


@pytest.mark.parametrize("case", LOGS)
def test_finds_the_cause_in_a_log(case: str) -> None:
    lines, reason = LOGS[case]
    assert explain_log(lines).reason == reason


@pytest.mark.parametrize(
    ("line", "hopeless"),
    [
        ("NotImplementedError: FP8 KV cache on CPU requires x86 with AVX-512 or AMX.", True),
        ("vllm serve: error: unrecognized arguments: --nope", True),
        (TOO_LONG, True),
        (KV, False),
        ("torch.OutOfMemoryError: CUDA out of memory.", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/models/nope/config.json'", True),
    ],
)
def test_recognizes_hopeless_failures(line: str, hopeless: bool) -> None:
    assert explain_log([line]).hopeless is hopeless


def test_evidence_is_the_error_lines() -> None:
    lines = ["INFO fine", "ERROR one", "KeyError: 'two'", "INFO bye"]
    assert explain_log(lines) == Failure(reason="KeyError: 'two'", last_lines=("ERROR one", "KeyError: 'two'"))


def test_evidence_is_limited() -> None:
    found = explain_log([f"line {number} {'x' * 1000}" for number in range(100)])
    assert len(found.last_lines) == LAST_LINES
    assert {len(line) for line in found.last_lines} == {MAX_TEXT}
    assert found.last_lines[-1].startswith("line 99 ")
    assert len(found.reason) == MAX_TEXT


def test_evidence_has_no_duplicates() -> None:
    assert explain_log(["ERROR a", "ERROR b", *["ERROR a"] * 20]).last_lines == ("ERROR a", "ERROR b")
