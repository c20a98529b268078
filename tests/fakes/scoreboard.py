"""A scoreboard with made-up rows of other workers."""

from berth.router.telemetry.shared_counters import Scoreboard


class FakeScoreboard(Scoreboard):
    def show(self, *rows: "memoryview[float]") -> None:
        """Sets the rows of the other workers."""
        self._live = (self.row, *rows)
