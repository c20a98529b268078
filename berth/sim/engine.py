"""The state of the simulated engine: running and queued requests, counters, interrupts."""

import asyncio
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from berth.plan import DialectName
from berth.sim.dialect import Dialect, EngineStats, Setup
from berth.sim.faults.active import Faults, set_from_text
from berth.sim.generation import REASONING_TEXT
from berth.sim.gpu_memory import GpuMemory
from berth.sim.load.pacer import Clock, FixedClock, Pacer
from berth.sim.options import Options
from berth.sim.pooling import Pooling
from berth.sim.sglang.routes import Sglang
from berth.sim.tokenizer import Tokenizer
from berth.sim.trtllm.routes import Trtllm
from berth.sim.vllm.routes import Vllm

_DIALECTS: dict[DialectName, Callable[[Setup], Dialect]] = {
    DialectName.VLLM: Vllm,
    DialectName.SGLANG: Sglang,
    DialectName.TRTLLM: Trtllm,
}
_MAX_FIRST_TOKEN_TIMES = 1000


def tokenizer(options: Options) -> Tokenizer:
    """Its vocabulary has the words of every text that the engine generates."""
    return Tokenizer((options.text, REASONING_TEXT), options.vocab_size)


class QueueFullError(Exception):
    """The queue is at capacity."""


class Interrupt(StrEnum):
    ABORT = "abort"  # the engine's own abort call
    SHUTDOWN = "shutdown"


@dataclass(slots=True, kw_only=True, eq=False)
class ActiveRequest:
    """A request in progress."""

    request_id: str
    task: "asyncio.Task[None]"
    prompt_tokens: int
    tokens: int = 0
    interrupt: Interrupt | None = None

    def stop(self, interrupt: Interrupt) -> None:
        """Cancels the request's task, which finds the reason here."""
        self.interrupt = interrupt
        self.task.cancel()


class Engine:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults = Faults()
        for text in options.faults:
            set_from_text(self.faults, text)
        self.tokenizer = tokenizer(options)
        setup = Setup(options=options, tokenizer=self.tokenizer)
        self.dialect = _DIALECTS[options.dialect](setup)
        self.pooling = Pooling(setup)
        self.pacer = Pacer(options.load, options.ttft_s) if options.has_load else None
        self.gpu_memory = GpuMemory(
            folder=options.gpu_folder,
            taken_mib=dict(options.gpu_memory_mib),
            release_s=self.faults.value("gpu-release") or 0.0,
            kept_mib=int(self.faults.value("gpu-leak") or 0),
        )
        self.draining = False
        self.warm = True
        self.exit: Callable[[int], None] = os._exit
        self.kill: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)
        self.on_faults_changed: Callable[[], None] = lambda: None  # called after faults have changed
        self.idle = asyncio.Event()  # nothing runs and nothing is queued
        self.idle.set()
        self.awake = asyncio.Event()
        self.awake.set()
        self.going = asyncio.Event()  # SGLang: generation is not paused
        self.going.set()
        self.sleeping_tags: set[str] = set()  # vLLM: what sleeps
        self.lost_weights = False  # it slept without them, and has not read them again
        self._started = time.time()
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._active: set[ActiveRequest] = set()
        self._finished: Counter[str] = Counter()
        self._first_token_s: deque[float] = deque(maxlen=_MAX_FIRST_TOKEN_TIMES)
        self._prompt_tokens = self._cached_tokens = self._generation_tokens = self._requests = 0

    def clock(self) -> Clock:
        """Of a request that other requests do not delay."""
        return FixedClock(self.options.ttft_s, self.options.itl_s)

    @asynccontextmanager
    async def paced(self, prompt: Sequence[int], tokens: int) -> AsyncIterator[Clock]:
        """The clock of a generation of so many tokens."""
        if self.pacer is None:
            yield self.clock()
            return
        async with self.pacer.seat(prompt, tokens) as seat:
            yield seat

    def check_queue(self) -> None:
        """QueueFullError if a new request would exceed the queue limit."""
        limit = self.options.max_queued
        waiting = len(self._queue) if self.pacer is None else len(self.pacer.batch.waiting)
        if limit is not None and self._running >= self.options.max_running and waiting >= limit:
            raise QueueFullError

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of the slots for running requests; waits in the queue for a free one."""
        self.idle.clear()
        if self.pacer is not None or self._running < self.options.max_running:  # the batch has a queue of its own
            self._running += 1
        else:
            granted = asyncio.get_running_loop().create_future()
            self._queue.append(granted)
            try:
                await granted
            except asyncio.CancelledError:
                if not granted.cancelled():
                    self._release()  # the slot was handed over at the same moment
                elif granted in self._queue:
                    self._queue.remove(granted)
                raise
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def track(self, request_id: str, prompt_tokens: int) -> AsyncIterator[ActiveRequest]:
        """Registers the current task, so that it can be interrupted."""
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - a coroutine always runs in a task
            raise RuntimeError("no task")
        active = ActiveRequest(request_id=request_id, task=task, prompt_tokens=prompt_tokens)
        self._active.add(active)
        self.idle.clear()
        self._requests += 1
        self._prompt_tokens += prompt_tokens
        try:
            yield active
        finally:
            self._active.discard(active)
            self._check_idle()

    def interrupt(self, why: Interrupt, request_id: str | None = None) -> None:
        """Stops one request or all."""
        for active in list(self._active):
            if request_id in (None, active.request_id):
                active.stop(why)

    def count_tokens(self, active: ActiveRequest, tokens: int = 1) -> bool:
        """Counts generated tokens. True if the process is to exit because of them."""
        active.tokens += tokens
        self._generation_tokens += tokens
        return self.faults.spend("exit-after-tokens", tokens)

    def record_first_token(self, waited_s: float, cached_tokens: int) -> None:
        self._first_token_s.append(waited_s)
        self._cached_tokens += cached_tokens

    def record_finish(self, reason: str) -> None:
        self._finished[reason] += 1

    def stats(self) -> EngineStats:
        held = sum(active.prompt_tokens + active.tokens for active in self._active)
        in_batch = 0
        if self.pacer is not None:
            held, in_batch = self.pacer.batch.held, len(self.pacer.batch.waiting)
        return EngineStats(
            started=self._started,
            running=self._running - in_batch,
            waiting=len(self._queue) + in_batch,
            kv_usage=min(1.0, held / self.options.kv_capacity),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generation_tokens=self._generation_tokens,
            finished=dict(self._finished),
            first_token_s=tuple(self._first_token_s),
            requests=self._requests,
        )

    def _release(self) -> None:
        while self._queue:
            granted = self._queue.popleft()
            if not granted.cancelled():
                granted.set_result(None)
                return
        self._running -= 1
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._running and not self._active:
            self.idle.set()
