"""How long the event loop of a router's worker pauses, and how much memory it takes, while something is done to it."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.fakes.router import RouterProcess

_EVERY_S: Final = 0.01
_SETTLE_S: Final = 0.5
_TICK_S: Final = 0.01  # of the kernel's CPU times


@dataclass(slots=True)
class Watched:
    # of requests that need nothing but the loop; of each no more than the CPU time that the worker took meanwhile: what
    # else runs on this machine makes no pause
    waits_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    after_bytes: int = 0

    @property
    def pause_s(self) -> float:
        """The longest wait, less what one takes on this machine now."""
        return max(self.waits_s) - statistics.median(self.waits_s)


@contextmanager
def watch(router: RouterProcess) -> Iterator[Watched]:
    """The result is complete after the block."""
    found, over, (worker,) = Watched(), threading.Event(), router.workers()

    def look() -> None:
        with httpx.Client(base_url=router.url, timeout=60, trust_env=False) as client:
            while not over.is_set():
                begun, cpu_s = time.monotonic(), sum(worker.cpu_times()[:2])
                client.get("/health").raise_for_status()
                waited_s, cpu_s = time.monotonic() - begun, sum(worker.cpu_times()[:2]) - cpu_s
                found.waits_s.append(min(waited_s, cpu_s + _TICK_S))
                found.peak_bytes = max(found.peak_bytes, worker.memory_info().rss)
                over.wait(_EVERY_S)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        time.sleep(_SETTLE_S)
        over.set()
        thread.join()
        found.after_bytes = worker.memory_info().rss
