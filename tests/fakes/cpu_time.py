"""How long a call computes, on a machine that does other things too."""

import gc
import time
from collections.abc import Callable


def cpu_s(call: Callable[[], object], runs: int = 5) -> float:
    """CPU time of this thread alone, the least of some runs. The garbage of other tests is not collected meanwhile."""
    best = float("inf")
    gc.disable()  # a collection takes as long as there are objects, at times that say nothing
    try:
        for _ in range(runs):
            begun = time.thread_time()
            call()
            best = min(best, time.thread_time() - begun)
    finally:
        gc.enable()
    return best
