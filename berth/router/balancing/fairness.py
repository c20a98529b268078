"""Whose turn it is in the queue of a model: the client's that has had the least of it, by its share. Over all workers.

What a client gets is counted in tokens, as far as they cost work: those of the prompt that the engine does not have in
its cache, and twice those of the response, which are computed one by one (VTC, arXiv 2401.00588). When a request gets a
slot, what it will cost is an estimate, which its end puts right.

A client that was away has no claim to what it did not use: when it comes back, it starts where the last request that
got a slot did (as in start-time fair queueing).
"""

from berth.ipc.key_counters import CACHED_WEIGHT, LIFTED, SERVED, TURN_WIDTH
from berth.router.telemetry.key_board import KeyBoard

RESPONSE_WEIGHT = 2.0


def cost(prompt: float, cached: float, completion: float) -> float:
    return prompt - cached * (1 - CACHED_WEIGHT) + RESPONSE_WEIGHT * completion


class Turns:
    """Of the queue of one model. `model`: its number in the plan."""

    __slots__ = ("_board", "_first", "_reached", "_step")

    def __init__(self, board: KeyBoard, model: int) -> None:
        self._board = board
        self._first = board.shape.turns + model * TURN_WIDTH
        self._step = board.shape.models * TURN_WIDTH
        self._reached = board.shape.reached + model

    def of(self, slot: int) -> float:
        """What the client has had: the smallest is the next."""
        at = self._first + slot * self._step
        return self._board.total(at + SERVED) + self._board.most(at + LIFTED)

    def join(self, slot: int) -> None:
        """The client had no request in the queue of this worker, and now has one."""
        reached, had = self._board.most(self._reached), self.of(slot)
        if had < reached:
            at = self._first + slot * self._step + LIFTED
            self._board.row[at] = self._board.most(at) + reached - had

    def grant(self, slot: int, price: float) -> None:
        """One of its requests gets a slot."""
        row, had = self._board.row, self.of(slot)
        row[self._reached] = max(row[self._reached], had)
        row[self._first + slot * self._step + SERVED] += price

    def correct(self, slot: int, difference: float) -> None:
        """The request cost more, or less, than its price."""
        self._board.row[self._first + slot * self._step + SERVED] += difference
