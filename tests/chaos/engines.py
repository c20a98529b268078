"""A simulated engine on a port of its own that is killed, frozen, started again and told to fail."""

import signal
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import httpx

from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port
from tests.sim.processes import Sim, sim


class SimEngine:
    """A process; its port stays the same over all its lives."""

    def __init__(self, dialect: str, *arguments: str) -> None:
        self._arguments = ("--dialect", dialect, *arguments)
        self._life = ExitStack()
        self._sim: Sim | None = None
        self.dialect = dialect
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.thaw()
        self._life.close()

    def start(self) -> None:
        """Returns when it serves. An earlier life must be over."""
        self._life.close()
        self._sim = self._life.enter_context(sim(*self._arguments, port=self.port))
        self._sim.port()

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._alive().signal(signal.SIGKILL)
        self._alive().code()

    def freeze(self) -> None:
        """It keeps its connections, and says nothing more."""
        self._alive().signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._alive().process.poll() is None:
            self._alive().signal(signal.SIGCONT)

    def fails(self, faults: dict[str, Any]) -> None:
        """From now on: the faults of `berth sim --help`."""
        httpx.post(
            f"{self.url}/sim/faults", json=faults, trust_env=False, verify=NO_AUTHORITIES, timeout=30
        ).raise_for_status()

    def is_well(self) -> None:
        """No fault any more."""
        httpx.delete(f"{self.url}/sim/faults", trust_env=False, verify=NO_AUTHORITIES, timeout=30).raise_for_status()

    def _alive(self) -> Sim:
        assert self._sim is not None, "start() comes first"
        return self._sim
