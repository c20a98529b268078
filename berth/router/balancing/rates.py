"""Rates that hold over all workers without a lock: a token bucket in two numbers per worker.

Everything is counted in seconds of the rate, so that a rate may change while it is used. The level of the bucket is

    burst + now - (what all workers have taken) - (what has overflowed)

Each worker adds what it takes to its own row. What overflows while a bucket is full is noticed by the next
worker that looks: it raises the number in its own row, and the largest of the rows counts.
"""

from collections.abc import Sequence

from berth.router.telemetry.key_board import KeyBoard


class Bucket:
    """`at`: the number of what was taken; the next one is what has overflowed."""

    __slots__ = ("_at", "_board")

    def __init__(self, board: KeyBoard, at: int) -> None:
        self._board = board
        self._at = at

    def level(self, now: float, burst_s: float) -> float:
        """What may be taken at once; below 0 it is owed."""
        at, lost_at = self._at, self._at + 1
        taken = lost = 0.0
        for row in self._board.used:
            taken += row[at]
            if (lost_here := row[lost_at]) > lost:  # max() would be a call for each row
                lost = lost_here
        level = burst_s + now - taken - lost
        if level > burst_s:
            self._board.row[lost_at] = lost + level - burst_s
            return burst_s
        return level

    def take(
        self, seconds: float, now: float, burst_s: float, longest_s: float, rows: "Sequence[memoryview[float]]"
    ) -> tuple[float, float]:
        """Takes that much, and returns the time to wait for it, and the level after it. If that would be more than
        `longest_s`, nothing is taken. More than the whole bucket is given when it is full: the rest is owed. `rows`:
        those of KeyBoard.used.
        """
        board, at = self._board, self._at
        own = board.row
        taken = lost = 0.0
        for row in rows:  # as in `level`, which would be a call
            taken += row[at]
            if (lost_here := row[at + 1]) > lost:
                lost = lost_here
        level = burst_s + now - taken - lost
        if level > burst_s:  # what has overflowed cannot be taken
            own[at + 1] = lost + level - burst_s
            level = burst_s
        level -= seconds
        own[at] += seconds
        # Far from the limit it does not matter what others take at this moment: if each of k workers leaves this much,
        # together they take no more than there is.
        if level >= burst_s - burst_s / len(rows):
            return 0.0, level
        with board.fence:
            pass
        level = self.level(now, burst_s)
        wait_s = (min(burst_s, seconds)) - (level + seconds)
        if wait_s > longest_s:
            own[at] -= seconds
            return wait_s, level + seconds
        return max(0.0, wait_s), level

    def add(self, seconds: float) -> None:
        """Takes or, below 0, gives back, whatever the level is."""
        self._board.row[self._at] += seconds
