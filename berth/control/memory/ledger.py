"""What engines were seen to take of their GPUs, to know how much is used once one of them is gone. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from berth.host.gpu_usage import Used


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    used: Used  # before it
    taken: dict[str, Used]  # of that, by other engines


@dataclass(slots=True)
class Ledger:
    """Per GPU one engine changes at a time, so that the difference of two readings is what it has taken."""

    _starts: dict[str, _Start] = field(default_factory=dict)
    _loading: set[str] = field(default_factory=set)
    _taken: dict[str, Used] = field(default_factory=dict)

    def started(self, name: str, used: Used) -> None:
        self._taken.pop(name, None)
        self._starts[name] = _Start(used=used, taken=dict(self._taken))
        self._loading.add(name)

    def loaded(self, name: str, used: Used) -> Used:
        """What it has taken. Empty: unknown."""
        start = self._starts.get(name)
        if start is not None:
            self._taken[name] = {index: max(now - start.used.get(index, now), 0) for index, now in used.items()}
        self._loading.discard(name)
        return self._taken.get(name, {})

    def changed(self, name: str, released: Used) -> None:
        """It has fallen asleep; with negative figures: it is awake."""
        if name in self._taken:
            self._taken[name] = {index: taken - released.get(index, 0) for index, taken in self._taken[name].items()}

    @property
    def taken(self) -> dict[str, Used]:
        """By engine: of those whose start was seen."""
        return dict(self._taken)

    def gone(self, name: str) -> None:
        """What those that are loading take is unknown from now on."""
        self._taken.pop(name, None)
        self._loading.discard(name)
        for other in self._loading:
            self._starts.pop(other, None)
        self._loading.clear()

    def expected(self, name: str, neighbours: Iterable[str]) -> Used | None:
        """What is used without the engine, while its neighbours, the others on its GPUs, run. None: unknown."""
        start, others = self._starts.get(name), tuple(neighbours)
        if start is None or any(other not in self._taken for other in others):
            return None
        now = {index: sum(self._taken[one].get(index, 0) for one in others) for index in start.used}
        then = {index: sum(taken.get(index, 0) for taken in start.taken.values()) for index in start.used}
        return {index: used + now[index] - then[index] for index, used in start.used.items()}
