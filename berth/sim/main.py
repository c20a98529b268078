"""The life of a simulated engine: it loads, serves and stops as the engine that it pretends to be."""

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
from berth.sim.options import Options, parse_options
from berth.sim.server import Server, log_line

_WARM_UP = 0.1  # SGLang's share of the load time in which it listens and says 503
_NEVER_READY_AT = 0.5  # how far a start gets that never ends


def main(argv: Sequence[str]) -> int:
    """Runs until a signal; the exit code is the engine's."""
    options = parse_options(argv, os.environ)
    engine = Engine(options)
    code = engine.faults.value("exit-at-start")
    if code is not None:
        for line in startup_log.last_words(options.dialect, _now()):
            log_line(line)
        return int(code)
    if engine.faults.value("orphan") is not None:
        _start_orphan()
    if engine.faults.value("hang-on-sigterm") is not None:
        _ignore_signals()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(engine))
    except KeyboardInterrupt:
        return 130


async def _run(engine: Engine) -> int:
    async with asyncio.TaskGroup() as tasks:
        server = Server(engine, tasks)
        try:
            await _start(server)
        except OSError:
            await _port_taken(engine.options)
            return 1
        try:
            await server.stopped.wait()
        finally:
            await server.close()
    return 0


async def _start(server: Server) -> None:
    """Loads and listens.

    vLLM takes its port first and listens last, TensorRT-LLM lets clients wait, SGLang is loaded before it asks.
    """
    options = server.engine.options
    if options.dialect is not DialectName.SGLANG:
        server.bind(listen=options.dialect is DialectName.TRTLLM)
    await _load(server.engine)
    server.engine.warm = options.dialect is not DialectName.SGLANG or not options.load_s
    await server.listen()
    _handle_signals(server)
    server.apply_faults()
    for line in startup_log.ready_lines(options.dialect, options.host, server.port, os.getpid(), _now()):
        log_line(line)
    if not server.engine.warm:
        await asyncio.sleep(options.load_s * _WARM_UP)
        server.engine.warm = True


async def _load(engine: Engine) -> None:
    options = engine.options
    started = asyncio.get_running_loop().time()
    for share, line in startup_log.load_lines(options.dialect, options.name, options.load_s, _now()):
        if engine.faults.value("never-ready") is not None and share >= _NEVER_READY_AT:
            await wait_forever()
        due = started + share * options.load_s
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        log_line(line)
    await asyncio.sleep(max(0.0, started + options.load_s - asyncio.get_running_loop().time()))


async def _port_taken(options: Options) -> None:
    """SGLang has loaded its model by now and hangs, deaf to SIGTERM; the others end."""
    hangs = options.dialect is DialectName.SGLANG
    if hangs:
        _ignore_signals()
    for line in startup_log.port_taken_lines(options.dialect, options.host, options.port):
        log_line(line)
    if hangs:
        await wait_forever()


def _handle_signals(server: Server) -> None:
    """Until here SIGTERM kills at once, as it does while an engine loads."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _start_orphan() -> None:
    """Like a worker that its engine leaves behind: same session and group, no wish to die with its parent."""
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _now() -> datetime:
    return datetime.now(UTC).astimezone()
