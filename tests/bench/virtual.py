"""Engines whose truth is known: the batch of the simulated engine, in virtual time."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from berth.bench.generator import Generator, Size
from berth.bench.schedule import arrivals
from berth.bench.window import Asked, Box, Run, Sample, window
from berth.bench.workload import Ask, Workload, asks
from berth.records.results import Point, Slo, Window
from berth.sim.load.batch import LoadModel
from berth.sim.load.pacer import Pacer

WORKLOAD = Workload(name="32/16", prompt_tokens=32, output_tokens=16, spread=0.0)
SIZE = Size(warm_requests=32, warm_s=0.0, requests=48, seconds=0.0)
SLO = Slo(ttft_s=0.5, tpot_s=0.05)


class Simulated:
    """A target without a network between."""

    def __init__(self, model: LoadModel, ttft_s: float = 0.05) -> None:
        self._pacer = Pacer(model, ttft_s)

    async def ask(self, ask: Ask, sample: Sample) -> None:
        loop = asyncio.get_running_loop()
        async with self._pacer.seat(ask.prompt, ask.tokens) as seat:
            for step in range(1, ask.tokens + 1):
                await seat.until(step)
                sample.frames.append(loop.time())
            sample.prompt_tokens, sample.tokens, sample.cached_tokens = len(ask.prompt), ask.tokens, seat.cached


async def run_of(
    target: Any, point: Point, *, workload: Workload = WORKLOAD, seed: int = 1, size: Size = SIZE, **more: Any
) -> Run:
    times: Iterable[float] = arrivals(point.rate, seed) if point.rate else ()
    return await Generator(target, asks(workload, seed, None), size).run(point, times, **more)


def judged(run: Run, point: Point, slo: Slo = SLO, requests: int = 1) -> Window:
    return window(run, Asked(point=point, seed=1, slo=slo, requests=requests), Box())


def slower(model: LoadModel, times: float) -> LoadModel:
    return replace(model, itl_s=model.itl_s * times, itl_per_running_s=model.itl_per_running_s * times)
