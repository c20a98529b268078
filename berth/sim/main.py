"""The life cycle of a simulated engine: it loads, serves and stops like the engine whose dialect it speaks."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import uvloop

from berth.plan import DialectName
from berth.sim import startup_log
from berth.sim.engine import Engine
from berth.sim.inference import wait_forever
from berth.sim.options import parse_options
from berth.sim.ranks import Meeting, follow
from berth.sim.server import Server, log_line

_WARM_UP = 0.1  # the share of the load time in which SGLang listens and answers 503
_NEVER_READY_AT = 0.5  # the share of the load time after which a start with `never-ready` hangs


def main(argv: Sequence[str]) -> int:
    """Runs until a signal. Returns the engine's exit code."""
    options = parse_options(argv, os.environ)
    engine = Engine(options)
    code = engine.faults.value("exit-at-start")
    if code is not None:
        for line in startup_log.fatal_lines(options.dialect, _now()):
            log_line(line)
        return int(code)
    engine.gpu_memory.hold()
    if engine.faults.value("orphan") is not None:
        # like an engine's worker process: in its session and process group, but not killed with it
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    if engine.faults.value("hang-on-sigterm") is not None:
        _ignore_signals()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(engine))
    except KeyboardInterrupt:
        return 130


async def _run(engine: Engine) -> int:
    """If its port is in use, SGLang hangs and ignores SIGTERM, because its model is loaded by then; the others exit."""
    options = engine.options
    if options.node_rank:
        return await _run_rank(engine)
    async with asyncio.TaskGroup() as tasks:
        server = Server(engine, tasks)
        try:
            await _start(server)
        except OSError:
            hangs = options.dialect is DialectName.SGLANG
            if hangs:
                _ignore_signals()
            for line in startup_log.port_in_use_lines(options.dialect, options.host, options.port):
                log_line(line)
            if hangs:
                await wait_forever()
            return 1
        try:
            await server.stopped.wait()
        finally:
            await server.close()
    return 0


async def _run_rank(engine: Engine) -> int:
    """A rank without an API: it loads with the head, and runs until it is ended. SGLang's ignores signals."""
    options = engine.options
    if options.dialect is DialectName.SGLANG:
        _ignore_signals()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(*options.meeting))
        for _, line in startup_log.load_lines(options.dialect, options.name, options.load_s, _now()):
            log_line(line)
    await wait_forever()
    return 0  # pragma: no cover - it waits forever


async def _start(server: Server) -> None:
    """Loads and listens.

    vLLM binds its port first and listens last, TensorRT-LLM lets clients wait, SGLang binds after loading.
    """
    engine, options = server.engine, server.engine.options
    if options.dialect is not DialectName.SGLANG:
        server.bind(listen=options.dialect is DialectName.TRTLLM)
    loop = asyncio.get_running_loop()
    if options.nodes > 1:
        meeting = Meeting(options.nodes - 1, lambda: engine.faults.set("wedged"))
        await meeting.wait(*options.meeting)
    started = loop.time()
    for share, line in startup_log.load_lines(options.dialect, options.name, options.load_s, _now()):
        if engine.faults.value("never-ready") is not None and share >= _NEVER_READY_AT:
            await wait_forever()
        await asyncio.sleep(max(0.0, started + share * options.load_s - loop.time()))
        log_line(line)
    await asyncio.sleep(max(0.0, started + options.load_s - loop.time()))
    engine.warm = options.dialect is not DialectName.SGLANG or not options.load_s
    await server.listen()
    for number in (signal.SIGTERM, signal.SIGINT):  # until here SIGTERM kills at once, as while an engine loads
        loop.add_signal_handler(number, server.stop)
    server.apply_faults()
    for line in startup_log.ready_lines(options.dialect, options.host, server.port, os.getpid(), _now()):
        log_line(line)
    if not engine.warm:
        await asyncio.sleep(options.load_s * _WARM_UP)
        engine.warm = True


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()
