"""System calls of a router's worker, for a request and for a token of a stream, as strace counts them.

One client asks for one thing after the other: on a busy server it is less, because each wake-up is for several. The
counts hardly depend on the machine, so that a change which adds a call shows. Left out are calls that wait for another
thread: how often that is depends on which one is faster. So are those of the worker's background work, which are more
on a slow machine: their rate is that of a worker without requests.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from berth.state import ReplicaStatus
from etc.tools.figures.engine import Engine
from etc.tools.figures.router_walks import ANTHROPIC, OPENAI, TRANSLATED, Client
from etc.tools.rivals.profiling import calls
from tests.fakes.ports import free_port
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state

NAMES = (REQUEST, TOKEN, TRANSLATED_TOKEN) = (
    *("system calls for a plain chat", "system calls for a token"),
    "system calls for a translated token",  # on average over the client APIs
)
REQUESTS, TOKENS = 200, 250
TRANSLATED_TOKENS = 60  # of each API
APIS = (ANTHROPIC, *TRANSLATED.values())
ROUNDS = 3  # the least counts: other work only adds calls
IDLE_S = 2.0
_ATTACH_S = 1.0
_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_LIMITS = replace(LIMITS, client_stall_timeout_s=60)  # then clients' connections are seldom looked at
_WAITS = frozenset({"futex", "sched_yield", "restart_syscall"})


def is_available() -> bool:
    """Whether strace is installed, and may look into a process that it has not started."""
    permitted = os.geteuid() == 0 or not _SCOPE.exists() or _SCOPE.read_text().strip() == "0"
    command = ["strace", "-c", "-o", "/dev/null", "true"]
    return permitted and shutil.which("strace") is not None and subprocess.run(command, check=False).returncode == 0


def system_calls() -> dict[str, float]:
    """Those of NAMES."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="calls-") as folder:
        plan = make_plan(folder, [replica("chat-a", f"http://127.0.0.1:{port}")], limits=_LIMITS)
        publish(plan, replica_state("chat-a", ReplicaStatus.READY))
        return asyncio.run(_count(RouterProcess(plan), port))


async def _count(router: RouterProcess, engine_port: int) -> dict[str, float]:
    engine = Engine()

    async def chats() -> None:
        for _ in range(REQUESTS):
            await client.whole(OPENAI)

    async def tokens() -> None:
        await client.stream(OPENAI, engine, TOKENS, lambda: None)

    async def translated_tokens() -> None:
        for api in APIS:
            await client.stream(api, engine, TRANSLATED_TOKENS, lambda: None)

    async with engine.listening(engine_port):
        try:
            await asyncio.to_thread(router.await_answer)
            worker = router.workers()[0].pid
            client = await Client.connected(router.plan.listen.port)
            await client.whole(OPENAI)  # from now on there is a connection to the engine
            count, seconds = await _traced(worker, partial(asyncio.sleep, IDLE_S))
            idle = count / seconds
            by_request = [await _traced(worker, chats) for _ in range(ROUNDS)]
            by_token = [await _traced(worker, tokens) for _ in range(ROUNDS)]
            by_translated = [await _traced(worker, translated_tokens) for _ in range(ROUNDS - 1)]
            client.close()
        finally:
            await asyncio.to_thread(router.end)
    counted = (by_request, REQUESTS), (by_token, TOKENS), (by_translated, len(APIS) * TRANSLATED_TOKENS)
    return {
        name: round(min(count - idle * seconds for count, seconds in rounds) / units, 1)
        for name, (rounds, units) in zip(NAMES, counted, strict=True)
    }


async def _traced(worker: int, work: Callable[[], Awaitable[None]]) -> tuple[int, float]:
    """The calls of the worker meanwhile, and how long that was, in seconds."""
    began = time.monotonic()
    tracer = await asyncio.create_subprocess_exec("strace", "-f", "-c", "-p", str(worker), stderr=subprocess.PIPE)
    await asyncio.sleep(_ATTACH_S)
    await work()
    seconds = time.monotonic() - began
    tracer.send_signal(signal.SIGINT)
    summary = (await tracer.communicate())[1].decode()
    if not (counts := calls(summary)):
        raise RuntimeError(f"strace failed: {summary.strip()[-300:]}")
    return sum(count for name, count in counts.items() if name not in _WAITS), seconds
