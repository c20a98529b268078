"""Migrations of a whole appliance under clients, with a kill of a router worker, of the router or of supervisord in
each of their phases: `python -m tests.chaos.migration_box_kills` makes all of them.

Only those requests may fail that the process had which was killed, or that came before another one had started: a
connection that breaks, or an answer that Berth stops. In the end the promoted revision is the one that runs, and every
request is answered.
"""

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Self

import httpx
import psutil

from berth.control.publish import read_control_state
from berth.ipc import traffic
from berth.ipc.control_socket import ask
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Action, Change, Operation, Request
from berth.records.revisions import read
from tests.chaos.migration_kills import BEGINS, Way, judged
from tests.e2e.appliance import Appliance, end, joined, sim_models

Victim = Literal["worker", "router", "supervisord"]
VICTIMS: tuple[Victim, ...] = ("worker", "router", "supervisord")
CLIENTS = 4
LIMIT_S = 120.0
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0}
# What a client sees of a router that ends.
LOST = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    way: Way
    phase: Phase
    victim: Victim

    def __str__(self) -> str:
        return f"{self.way}-{self.phase}-{self.victim}"


def cases() -> list[Case]:
    ways = [(way, phase) for way, phases in BEGINS.items() for phase in (*phases, Phase.ROLLING_BACK)]
    return [Case(way=way, phase=phase, victim=victim) for way, phase in ways for victim in VICTIMS]


@contextmanager
def box() -> Iterator[Appliance]:
    models = sim_models("m", "vllm --itl 2ms", "sglang --itl 2ms", sleep="true")
    with Appliance(models, BERTH_QUEUE_TIMEOUT="120s", BERTH_WORKERS="2") as appliance:
        yield appliance.wait_ready()


class Clients:
    """Streams and whole answers in turn, each with a connection of its own, while the block runs."""

    def __init__(self, url: str, victim: Victim) -> None:
        self._url = f"{url}/v1/chat/completions"
        # Without supervisord control ends all engines, also under their last requests.
        self.allowed = ("model_not_ready", *(("engine_failed",) if victim == "supervisord" else ()))
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        self.answered = 0
        self.lost = 0  # connections
        self.stopped = 0  # answers that Berth stops, or that no engine serves yet
        self.wrong: list[str] = []
        self.texts: set[str] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        joined(self._threads, 150)

    def calm(self) -> bool:
        """Each client has got its answers for a while."""
        before, wanted = (self.lost, self.stopped), self.answered + 2 * CLIENTS
        while (self.lost, self.stopped) == before and self.answered < wanted:
            time.sleep(0.01)
        return (self.lost, self.stopped) == before

    def _run(self, number: int) -> None:
        while not self._ends.is_set():
            number += 1
            try:
                self._ask({**BODY, "stream": bool(number % 2)})
            except LOST:
                self.lost += 1
                time.sleep(0.05)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    def _ask(self, body: dict[str, object]) -> None:
        headers = {"x-session-id": f"{time.time_ns() % 50}"}
        answer = httpx.post(self._url, json=body, headers=headers, timeout=130, trust_env=False)
        last = answer.text.strip().rpartition("\n")[2].removeprefix("data: ")  # of a stream, its last event
        if last.startswith('{"error"') and json.loads(last)["error"]["code"] in self.allowed:
            self.stopped += 1
            time.sleep(0.05)
        elif answer.status_code != 200:
            self.wrong.append(f"{answer.status_code} {answer.text[:300]}")
        elif body["stream"] and not answer.text.rstrip().endswith("[DONE]"):
            self.wrong.append(f"a stream that ends with {answer.text[-200:]!r}")
        else:
            self.answered += 1
            if not body["stream"]:
                self.texts.add(answer.json()["choices"][0]["message"]["content"])


def migration(berth: Appliance) -> Operation | None:
    """The newest one, as control keeps it."""
    state = read_control_state(berth.paths)
    found = [one for one in state.kept.operations if one.migration is not None] if state is not None else []
    return found[-1] if found else None


def change(berth: Appliance, way: Way, *, compares: bool) -> Change:
    """To the engine that does not serve, or of the one that does. `compares`: for a second, before its canary."""
    plan = berth.plan()
    serves = next(name for name, one in berth.replicas().items() if one["status"] == "ready")
    other = next(one.name for one in plan.replicas if one.name != serves)
    options = {"steps": (50.0, 100.0), "step_s": 0.0, "step_requests": 8, "keep_s": 0.3, "trial_s": 0.3}
    options |= {"shadow": 0.5, "step_s": 1.0} if compares else {}
    if way == "place":
        launch = plan.replica(serves).launch
        words = "--itl 2ms" if launch is not None and "--ttft" in launch.argv else "--itl 2ms --ttft 3ms"
        made = Options(to=serves, set=(f"args={words}",), **options)  # type: ignore[arg-type] # fields of Options
    else:
        made = Options(to=other, how=How(way), **options)  # type: ignore[arg-type] # the same
    return Change(action=Action.MIGRATE, model="m", migrate=made, drain_s=30.0, by="a test")


def run(case: Case, berth: Appliance) -> str:
    """What happened. AssertionError where something is not as it has to be."""
    rolls_back = case.phase is Phase.ROLLING_BACK
    with Clients(berth.url, case.victim) as clients:
        asked = change(berth, case.way, compares=case.phase is Phase.SHADOWING)
        reply = asyncio.run(ask(berth.paths.control_socket, Request(change=asked), timeout_s=60))
        assert reply.operation is not None, reply
        number = reply.operation.id
        if rolls_back:
            _until(lambda: _phase(berth, number) in (Phase.CHECKING, Phase.CANARY, Phase.DONE))
            with suppress(AssertionError):  # it may be over by then
                reply = asyncio.run(ask(berth.paths.control_socket, Request(cancel=number), timeout_s=60))
        _until(lambda: _phase(berth, number) in (case.phase, Phase.DONE, Phase.ROLLED_BACK))
        seen = _phase(berth, number)
        _kill(case.victim, berth)
        if case.victim == "supervisord":
            assert berth.process is not None
            berth.process.wait(LIMIT_S)
            berth.start()
        berth.wait_ready(LIMIT_S)
        _until(lambda: (one := migration(berth)) is None or not one.running)
        ended = migration(berth)
        berth.wait(lambda: _agrees(berth), LIMIT_S)
        _until(clients.calm)
    assert clients.wrong == [], clients.wrong[:3]
    assert len(clients.texts) <= 1, clients.texts
    if case.victim == "worker":
        assert clients.stopped == 0, "an answer that Berth stops"
        assert clients.lost <= CLIENTS, "more requests were lost than the worker can have had"
    state = f"{ended.state} {ended.reason}" if ended is not None else "interrupted"
    lost = f"{clients.answered} answered, {clients.lost} lost, {clients.stopped} while it stopped or started"
    return f"killed in {seen}: {state}; {lost}"


def _phase(berth: Appliance, number: str) -> Phase | None:
    """None: it is no longer known."""
    found = migration(berth)
    made: Migration | None = found.migration if found is not None and found.id == number else None
    return made.phase if made is not None else None


def _kill(victim: Victim, berth: Appliance) -> None:
    if victim == "worker":
        pid = next(iter(traffic.workers(berth.paths.heartbeats).values()))
        with suppress(psutil.NoSuchProcess):
            end(psutil.Process(pid), signal.SIGKILL)
    elif victim == "router":
        end(berth.find("berth", "router"), signal.SIGKILL)
    else:
        end(berth.find("supervisor.supervisord"), signal.SIGKILL)


def _agrees(berth: Appliance) -> bool:
    """The first engine of the promoted revision serves, with its arguments, and the other one rests."""
    promoted = read(berth.paths.data_dir).promoted("m")
    replicas, plan = berth.replicas(), berth.plan()
    ready = [name for name, one in replicas.items() if one["status"] == "ready"]
    if promoted is None or len(ready) != 1 or {one["status"] for one in replicas.values()} != {"ready", "standby"}:
        return False
    replica = plan.replica(ready[0])
    pid = next(one.pid for one in berth.state().replicas if one.name == ready[0])
    place = promoted.order[0]
    changed = next((line for line in promoted.changes if line.startswith(f"engines[{place}].args=")), "")
    assert replica.launch is not None
    is_so = replica.dialect == ("vllm", "sglang")[place] and ("--ttft" in replica.launch.argv) == ("--ttft" in changed)
    return is_so and pid is not None and tuple(psutil.Process(pid).cmdline()) == replica.launch.argv


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, "this never came"
        time.sleep(0.002)


def main() -> int:
    with box() as berth:
        return judged(cases(), lambda case: run(case, berth))


if __name__ == "__main__":
    sys.exit(main())
