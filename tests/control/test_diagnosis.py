"""Log, signal and kernel together."""

from pathlib import Path

import pytest

from berth.control.diagnosis import WINDOW_S, Deaths
from berth.control.supervisord_client import Process, ProcessState, Supervisor
from berth.errors import ControlError
from berth.host.oom import Kills

pytestmark = pytest.mark.anyio
KILLED = Process(state=ProcessState.EXITED, exit_code=-1)
EXITED = Process(state=ProcessState.EXITED, exit_code=1)


class Log(Supervisor):
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


async def test_a_kill_before_the_death_is_its_cause_and_only_its(kernel: Kernel) -> None:
    deaths = Deaths(Log("SIGKILL"), kernel.read)
    deaths.look(0)
    kernel.kills = 1
    first = await deaths.explain([("a", KILLED, ["bye"]), ("b", EXITED, ["EngineDeadError: x"])], 2)
    second = await deaths.explain([("c", KILLED, [])], 3)
    assert first["a"].out_of_memory.startswith("the container's memory limit of 1.0 GiB")
    assert first["b"].out_of_memory == first["a"].out_of_memory
    assert (first["a"].signal, first["b"].signal) == ("SIGKILL", "")
    assert (second["c"].out_of_memory, second["c"].signal) == ("", "SIGKILL")


async def test_a_kill_explains_what_dies_within_a_minute(kernel: Kernel) -> None:
    for later_s, explained in ((WINDOW_S - 1, True), (2 * WINDOW_S, False)):
        deaths = Deaths(Log(""), kernel.read)
        deaths.look(0)
        kernel.kills += 1
        for moment in range(1, int(later_s)):
            deaths.look(moment)
        found = await deaths.explain([("a", EXITED, [])], later_s)
        assert bool(found["a"].out_of_memory) is explained


async def test_kills_while_no_control_ran_count(kernel: Kernel) -> None:
    before = Deaths(Log(""), kernel.read)
    assert before.latest is None
    before.look(0)
    kernel.kills = 1
    after = Deaths(Log(""), kernel.read)
    after.look(0, before.latest)
    assert (await after.explain([("a", EXITED, [])], 1))["a"].out_of_memory


@pytest.mark.parametrize(
    "process",
    [
        Process(state=ProcessState.EXITED, exit_code=2),
        Process(state=ProcessState.BACKOFF, spawn_error="no such file"),
    ],
)
async def test_what_failed_by_itself_is_not_blamed_on_the_kernel(kernel: Kernel, process: Process) -> None:
    deaths = Deaths(Log(""), kernel.read)
    deaths.look(0)
    kernel.kills = 1
    assert not (await deaths.explain([("a", process, [])], 1))["a"].out_of_memory
    assert (await deaths.explain([("b", None, [])], 2))["b"].out_of_memory  # the kill is still there to explain


async def test_without_supervisord_the_signal_is_not_known(kernel: Kernel) -> None:
    found = await Deaths(Log(None), kernel.read).explain([("a", KILLED, ["KeyError: 'x'"])], 0)
    assert (found["a"].signal, found["a"].reason) == ("", "KeyError: 'x'")
