"""Walks with what is on only sometimes: a canary at 25 %, and 20 rules of BERTH_ROUTES, next to the same without.

The applications are those of `cost`, called without a server.
"""

import asyncio
import tempfile
from pathlib import Path

import uvloop

from etc.tools.figures.box import Box
from etc.tools.figures.cost import Router, features
from etc.tools.figures.engine import Engine
from etc.tools.figures.recorder import Recorder
from etc.tools.figures.walk import Walk, usual
from tests.fakes.ports import free_port

REPEATS = 5
TOKENS = 25


def feature_walks(_box: Box, recorder: Recorder) -> dict[str, Walk]:
    """Walks by name: a whole chat, and a streamed one of 25 tokens."""
    with tempfile.TemporaryDirectory(prefix="berth-features-") as folder:
        return uvloop.run(_walk(Path(folder), recorder))


async def _walk(folder: Path, recorder: Recorder) -> dict[str, Walk]:
    engine, port = Engine(), free_port()
    walks: dict[str, Walk] = {}
    async with engine.listening(port):
        routers = features(folder, port)
        with recorder.installed():
            for name, router in routers.items():
                for tokens, suffix in ((0, ""), (TOKENS, "-stream")):
                    walks[f"{name}{suffix}"] = await _asked(router, engine, recorder, tokens)
        for router in routers.values():
            router.close()
        await asyncio.sleep(0)  # transports close in the next round of the loop
    return walks


async def _asked(router: Router, engine: Engine, recorder: Recorder, tokens: int) -> Walk:
    await router.ask(engine, tokens=tokens)  # the connection to the engine is open now
    found = []
    for _ in range(REPEATS):
        recorder.start()
        await router.ask(engine, tokens=tokens)
        found.append(recorder.stop())
    return usual(found)
