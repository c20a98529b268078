"""Turns by what each client has had: a flood does not keep others waiting, and gets what they leave."""

import heapq
import random
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from berth.ipc.key_counters import Shape
from berth.router.balancing.fairness import Turns, cost
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.shared_counters import Layout, Scoreboard

SLOTS = 8  # of the engine
FLOOD = 1


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyBoard]:
    folder = tmp_path_factory.mktemp("turns")
    Scoreboard.create(folder / "board", Layout(()), 1)
    scoreboard = Scoreboard(folder / "board", Layout(()))
    yield KeyBoard(folder / "keys", Shape(6, 1, 1, 1), scoreboard)
    scoreboard.close()


@dataclass
class Engine:
    """SLOTS requests at a time; a request takes its prompt / 8000 + its completion / 40 seconds."""

    turns: Turns
    shares: Mapping[int, float]
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    queue: list[tuple[float, int, int, int]] = field(default_factory=list)  # since, client, prompt, completion
    waits: dict[int, list[float]] = field(default_factory=dict)
    served: dict[int, float] = field(default_factory=dict)

    def arrive(self, now: float, client: int) -> None:
        if all(other != client for _, other, *_ in self.queue):
            self.turns.join(client)
        most = (2000, 600) if client == FLOOD else (800, 300)
        self.queue.append((now, client, self.dice.randint(100, most[0]), self.dice.randint(50, most[1])))

    def run(self, waiting: Mapping[int, int], seconds: float) -> None:
        """`waiting`: how many requests each client has at a time."""
        now, busy = 0.0, list[tuple[float, int, float, float]]()
        for client, count in waiting.items():
            for _ in range(count):
                self.arrive(0.0, client)
        while now < seconds:
            while self.queue and len(busy) < SLOTS:
                chosen = min(self.queue, key=lambda one: (self.turns.of(one[1]), one[0]))
                self.queue.remove(chosen)
                since, client, prompt, completion = chosen
                price = cost(prompt, 0, 300) / self.shares[client]  # the completion is not known yet
                self.turns.grant(client, price)
                self.waits.setdefault(client, []).append(now - since)
                self.served[client] = self.served.get(client, 0.0) + cost(prompt, 0, completion)
                ends = now + prompt / 8000 + completion / 40
                heapq.heappush(busy, (ends, client, price, cost(prompt, 0, completion) / self.shares[client]))
            now, client, price, spent = heapq.heappop(busy)
            self.turns.correct(client, spent - price)
            self.arrive(now, client)


def test_flood_keeps_nobody_waiting(board: KeyBoard) -> None:
    engine = Engine(Turns(board, 0), {1: 1.0, 2: 1.0})
    engine.run({FLOOD: 64, 2: 1}, 600)

    assert statistics.median(engine.waits[2]) <= 1.0
    assert engine.served[FLOOD] > 4 * engine.served[2]  # what the other leaves


def test_work_is_divided_by_the_shares(board: KeyBoard) -> None:
    shares = {1: 1.0, 2: 1.0, 3: 2.0}
    engine = Engine(Turns(board, 0), shares)
    engine.run(dict.fromkeys(shares, 30), 1500)

    parts = [engine.served[client] / share for client, share in shares.items()]
    assert sum(parts) ** 2 / len(parts) / sum(part**2 for part in parts) >= 0.98  # Jain's index


def test_being_away_gives_no_claim(board: KeyBoard) -> None:
    turns = Turns(board, 0)
    for _ in range(50):
        turns.grant(1, 10.0)
    turns.join(2)

    assert turns.of(2) == 490.0  # where the last request began that got a slot
    turns.join(2)
    assert turns.of(2) == 490.0
    turns.correct(2, -30.0)
    assert turns.of(2) == 460.0
