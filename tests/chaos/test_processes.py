"""Engines that die, freeze, flap and refuse, under requests: the official client gets the exact text, or is told."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from berth.router.balancing.circuit_breaker import RetryBudget
from tests.chaos.engines import SimEngine
from tests.chaos.observation import WAYS, Observation, Outcome, ask, make_client, verdicts
from tests.chaos.sim_router import DIALECTS, ENOUGH, SimRouter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MIDDLE = 10  # chunks of a stream, after which something happens


def once(at: int, act: Callable[[], None]) -> Callable[[int], None]:
    """For `heard`: acts when the first of the streams has come so far."""
    done = threading.Event()

    def heard(chunks: int) -> None:
        if chunks >= at and not done.is_set():
            done.set()
            act()

    return heard


@pytest.mark.parametrize("dialect", DIALECTS)
def test_engine_killed_under_load(sim_router: SimRouter, dialect: str) -> None:
    """All that it served is saved by the other one. It comes back, and is asked again."""
    engine, pair, solo = sim_router.engines[dialect], f"pair-{dialect}", f"solo-{dialect}"

    seen = sim_router.ask(pair, solo, heard=once(MIDDLE, engine.kill))
    engine.start()

    assert verdicts(seen) == {pair: {Outcome.WHOLE}, solo: {Outcome.TOLD}}, seen
    assert all(one.text for one in seen if (one.model, one.way.stream) == (solo, True))  # it had begun
    sim_router.router.await_true(
        lambda: verdicts(sim_router.ask(pair, solo)) == {pair: {Outcome.WHOLE}, solo: {Outcome.WHOLE}}
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_engine_frozen_while_streaming(sim_router: SimRouter, dialect: str) -> None:
    """Its connections are open, and nothing comes. What was not streamed comes when it thaws: it was not late yet."""
    engine, pair, solo = sim_router.engines[dialect], f"pair-{dialect}", f"solo-{dialect}"

    async def scene() -> list[Observation]:
        heard = once(MIDDLE, engine.freeze)
        async with make_client(sim_router.router.url) as client, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ask(client, model, way, heard, max_tokens=ENOUGH))
                for model in (pair, solo)
                for way in WAYS
            ]
            streams = [task for task, way in zip(tasks, WAYS * 2, strict=True) if way.stream]
            await asyncio.wait(streams)
            engine.thaw()
        return [task.result() for task in tasks]

    seen = asyncio.run(scene())

    found = [(one.way.stream, one.outcome()) for one in seen]
    moved = [(way.stream, Outcome.WHOLE) for way in WAYS]
    told = [(way.stream, Outcome.TOLD if way.stream else Outcome.WHOLE) for way in WAYS]
    assert found == moved + told, seen


def test_both_engines_killed(sim_router: SimRouter) -> None:
    """Nobody is left to save anything."""

    def kill() -> None:
        for engine in sim_router.engines.values():
            engine.kill()

    seen = sim_router.ask("pair-vllm", "pair-sglang", heard=once(MIDDLE, kill))
    for engine in sim_router.engines.values():
        engine.start()

    assert verdicts(seen) == {"pair-vllm": {Outcome.TOLD}, "pair-sglang": {Outcome.TOLD}}, seen
    well = {"pair-vllm": {Outcome.WHOLE}, "pair-sglang": {Outcome.WHOLE}}
    sim_router.router.await_true(lambda: verdicts(sim_router.ask(*well)) == well)


FLAPS: dict[str, tuple[Callable[[SimEngine], None], Callable[[SimEngine], None]]] = {
    "refuse": (lambda engine: engine.fails({"refuse": "100ms"}), lambda _: None),
    "reset": (lambda engine: engine.fails({"reset-after": 5}), lambda engine: engine.is_well()),
    "kill": (lambda engine: engine.kill(), lambda engine: engine.start()),
}


@contextmanager
def flapping(engine: SimEngine, kind: str) -> Iterator[None]:
    """In a thread of its own: down and up again, until the end. The engine is up then."""
    down, up = FLAPS[kind]
    over = threading.Event()

    def flap() -> None:
        while not over.wait(0.15):
            down(engine)
            over.wait(0.15)
            up(engine)

    with ThreadPoolExecutor(1) as pool:
        flaps = pool.submit(flap)
        try:
            yield
        finally:
            over.set()
            flaps.result()


@pytest.mark.parametrize("kind", FLAPS)
def test_flapping(sim_router: SimRouter, kind: str) -> None:
    """Of an engine that comes and goes the client of a pair sees nothing; that of a lonely one is told each time."""
    seen: list[Observation] = []
    with flapping(sim_router.engines["vllm"], kind):
        for number in range(40):
            seen += sim_router.ask("pair-vllm", "solo-vllm")
            hit = kind == "refuse" or Outcome.TOLD in verdicts(seen)["solo-vllm"]  # open connections are not refused
            if hit and number > 4:
                break

    found = verdicts(seen)
    assert found["pair-vllm"] == {Outcome.WHOLE}, seen
    assert found["solo-vllm"] <= {Outcome.WHOLE, Outcome.TOLD}, seen
    assert hit
    sim_router.router.await_true(lambda: verdicts(sim_router.ask("solo-vllm")) == {"solo-vllm": {Outcome.WHOLE}})


@pytest.mark.parametrize(("status", "most"), [(503, 2.0), (500, 1 + RetryBudget.SHARE)])
def test_error_storm_is_reported_without_retry_amplification(sim_router: SimRouter, status: int, most: float) -> None:
    """Every engine refuses everything. Clients are told; who says that it is full is asked once for each request, and
    for what failed there are no more attempts than the budget for retries allows.
    """
    for engine in sim_router.engines.values():
        engine.fails({"status": status})
    before = sim_router.attempts("pair-vllm")
    seen: list[Observation] = []

    while len(seen) < 3 * RetryBudget.MOST:
        seen += sim_router.ask(*["pair-vllm"] * 8)

    assert verdicts(seen) == {"pair-vllm": {Outcome.TOLD}}
    assert sim_router.attempts("pair-vllm") - before <= len(seen) * most + RetryBudget.MOST
    for engine in sim_router.engines.values():
        engine.is_well()
    sim_router.router.await_true(lambda: verdicts(sim_router.ask("pair-vllm")) == {"pair-vllm": {Outcome.WHOLE}})


def test_error_storm_at_one_engine_is_hidden_from_clients(sim_router: SimRouter) -> None:
    sim_router.engines["vllm"].fails({"status": 503})

    for _ in range(3):
        seen = sim_router.ask(*["pair-vllm"] * 4)
        assert verdicts(seen) == {"pair-vllm": {Outcome.WHOLE}}, seen
