"""The faults of a soak: one every few seconds, for each engine in turn."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeVar

import httpx

from tests.e2e.appliance import Appliance

HANG_S: Final = 4.0  # longer than Berth waits for a token
RESET_S: Final = 2.0

Fault = TypeVar("Fault")


@dataclass(slots=True, kw_only=True)
class FaultInjector:
    """`wait(seconds)` returns early, with True, when it is to end."""

    berth: Appliance
    http: httpx.Client
    wait: Callable[[float], bool]
    done: Counter[str] = field(default_factory=Counter)  # by deed

    def run(self, every_s: float) -> None:
        engines = [replica.name for replica in self.berth.plan().replicas]
        faults = (self._kill, self._hang, self._reset)
        for number in count():
            if self.wait(every_s):
                return
            name, fault = turn(number, engines, faults)
            with suppress(ProcessLookupError, httpx.TransportError, LookupError):  # it is down already
                fault(name)
                self.done[fault.__name__.strip("_")] += 1

    def _kill(self, name: str) -> None:
        os.kill(self._pid(name), signal.SIGKILL)

    def _hang(self, name: str) -> None:
        pid = self._pid(name)
        os.kill(pid, signal.SIGSTOP)
        self.wait(HANG_S)
        os.kill(pid, signal.SIGCONT)

    def _reset(self, name: str) -> None:
        """Every stream that begins now is reset in its middle, every other request at its end."""
        (url,) = [replica.url for replica in self.berth.plan().replicas if replica.name == name]
        self.http.post(f"{url}/sim/faults", json={"reset-after": 20})
        self.wait(RESET_S)
        self.http.delete(f"{url}/sim/faults")

    def _pid(self, name: str) -> int:
        (pid,) = [replica.pid for replica in self.berth.state().replicas if replica.name == name]
        if pid is None:
            raise LookupError(f"{name} does not run")
        return pid


def turn(number: int, engines: Sequence[str], faults: Sequence[Fault]) -> tuple[str, Fault]:
    """Each engine in its turn, and after all engines the next deed."""
    return engines[number % len(engines)], faults[number // len(engines) % len(faults)]


@contextmanager
def inject_faults(berth: Appliance, every_s: float) -> Iterator[FaultInjector]:
    """In a thread of its own, until the end."""
    over = threading.Event()
    with httpx.Client(trust_env=False, timeout=10) as http, ThreadPoolExecutor(1) as pool:
        made = FaultInjector(berth=berth, http=http, wait=over.wait)
        done = pool.submit(made.run, every_s)
        try:
            yield made
        finally:
            over.set()
            done.result()
