"""The wall clock is set an hour ahead and a day back under requests: nothing that Berth does depends on it."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos import sim_router as stages
from tests.chaos.observation import Outcome, verdicts
from tests.chaos.sim_router import SimRouter
from tests.chaos.test_processes import once
from tests.e2e.appliance import Appliance, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLOCK = Path(__file__).with_name("clock")
STEPS_S = (3600.0, -86400.0)


class Clock:
    """Of the programs that are started with `environ`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "step"
        self.environ = {"PYTHONPATH": str(CLOCK), "STEPPED_CLOCK": str(self._file)}
        self.step(0)

    def step(self, seconds: float) -> None:
        half = self._file.with_suffix(".half")
        half.write_text(str(seconds))
        half.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def stepped(clock: Clock) -> Iterator[SimRouter]:
    with stages.sim_router(clock.environ) as made:
        yield made


@pytest.mark.parametrize("seconds", STEPS_S)
def test_clock_step_during_streams_has_no_effect(stepped: SimRouter, clock: Clock, seconds: float) -> None:
    """Neither are they taken for stalled, nor is an engine that breaks afterwards left alone for a day."""
    engine = stepped.engines["vllm"]

    seen = stepped.ask("pair-vllm", "solo-vllm", heard=once(10, lambda: clock.step(seconds)))
    assert verdicts(seen) == {"pair-vllm": {Outcome.WHOLE}, "solo-vllm": {Outcome.WHOLE}}, seen

    stepped.recover()  # the states have the true time: from a day ahead, or an hour ago
    seen = stepped.ask("pair-vllm", "solo-vllm", heard=once(10, engine.kill))
    engine.start()
    assert verdicts(seen) == {"pair-vllm": {Outcome.WHOLE}, "solo-vllm": {Outcome.TOLD}}, seen
    stepped.router.await_true(lambda: verdicts(stepped.ask("solo-vllm")) == {"solo-vllm": {Outcome.WHOLE}})


def test_clock_step_starts_and_stops_nothing(clock: Clock) -> None:
    """Control goes on watching: what dies afterwards is started again, as soon as ever."""
    models = sim_models("m", "vllm --ttft 0 --itl 0", "sglang --ttft 0 --itl 0", standby="hot")
    with Appliance(models, **clock.environ) as berth:
        for seconds in STEPS_S:
            pids = all_ready(berth)
            clock.step(seconds)
            berth.wait(partial(is_off_by, berth, seconds))

            assert all_ready(berth) == pids
            berth.wait(lambda: berth.get("/health").json()["status"] == "ok")  # with control's next report
            berth.find("sim", "--dialect", "vllm").kill()
            assert berth.chat("m").status_code == 200
            berth.wait(partial(is_another, berth, pids), 20)


def all_ready(berth: Appliance) -> dict[str, int | None]:
    """The engines' processes, once all are ready."""
    berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"ready"})
    return {replica.name: replica.pid for replica in berth.state().replicas}


def is_off_by(berth: Appliance, seconds: float) -> bool:
    """Control has seen the step."""
    return abs(time.time() + seconds - berth.state().published_at) < 60


def is_another(berth: Appliance, before: dict[str, int | None]) -> bool:
    """All run, one of them anew."""
    now = {replica.name: replica.pid for replica in berth.state().replicas}
    return None not in now.values() and len(now.items() - before.items()) == 1
