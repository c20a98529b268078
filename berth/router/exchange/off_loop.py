"""Large requests and responses are translated in a thread of their own, one at a time.

Meanwhile the interpreter lets the loop run again every SWITCH_S, except within a single call into orjson. At other
times its own interval holds: with a short one, Granian's threads make every request cost 6 % more CPU. Another process
would free the loop of that call too, but what it returns would have to be parsed here again, at the same cost. So the
call is short: BERTH_MAX_BODY bounds its bytes, and the number of values is bounded before it (berth.apis.json_weight).
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

LARGE_BYTES: Final = 1 << 20  # orjson takes a millisecond for it
SWITCH_S: Final = 0.001

P = ParamSpec("P")
T = TypeVar("T")


class OffLoop:
    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of pure work. If the caller is cancelled, the work still ends, and its result is dropped."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _interruptible, partial(work, *args, **kwargs))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _interruptible(work: Callable[[], T]) -> T:
    """In the only thread that changes the interval."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        return work()
    finally:
        sys.setswitchinterval(interval_s)
