"""Two appliances that run one model together."""

from collections.abc import Callable
from dataclasses import dataclass

from berth.state import ReplicaState
from tests.e2e.appliance import Appliance, kill, wait_for

LONG_S = 240.0  # whatever else this machine does


@dataclass(kw_only=True)
class Boxes:
    head: Appliance
    other: Appliance
    model: str = "big"
    long_s: float = LONG_S

    def replica(self, box: Appliance) -> ReplicaState:
        return next(one for one in box.state().replicas if one.ranks)

    def serves(self) -> bool:
        """All ranks are ready with one generation, as both boxes see it."""
        seen = [self.replica(self.head).ranks, self.replica(self.other).ranks]
        whole = all([one.status for one in ranks] == ["ready", "ready"] for ranks in seen)
        return whole and len({one.generation for ranks in seen for one in ranks}) == 1

    def generation(self) -> int:
        return self.replica(self.head).ranks[0].generation

    def serves_again(self, generation: int) -> None:
        """With a later generation."""
        self.head.wait(lambda: self.serves() and self.generation() > generation, self.long_s)
        answer = self.head.chat(self.model)
        assert answer.status_code == 200

    def head_reboots(self) -> None:
        """All of its processes are killed. The other box's rank, which is stale then, must end."""
        generation, rank = self.generation(), self.other.find("sim")
        for process in self.head.processes():
            kill(process)
        wait_for(lambda: not self.head.processes(), 30, lambda: f"{self.head.processes()}")
        self.head.start()
        self.serves_again(generation)
        assert not rank.is_running()

    def head_waits(self, reason: str) -> None:
        self.waits(self.head, lambda text: reason in text)

    def waits(self, box: Appliance, says: Callable[[str], bool]) -> None:
        box.wait(lambda: says(self.replica(box).reason), self.long_s)
