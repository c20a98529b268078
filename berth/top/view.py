"""What the user has chosen to see; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

SORTS: Final = ("plan", "tokens", "running")
_PAGES: Final = {"r": "requests", "l": "log", "?": "help", "h": "help"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    page: str = "overview"  # or "requests", "log", "help"
    sort: str = SORTS[0]  # of the models
    selected: str = ""  # a replica; "": the first
    paused: bool = False
    quit: bool = False

    def pressed(self, key: str, replicas: Sequence[str]) -> "View":
        """The view after a key. `replicas`: as they are shown."""
        match key:
            case "q" | "p":
                return replace(self, quit=key == "q", paused=self.paused != (key == "p"))
            case "s":
                return replace(self, sort=SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)])
            case "r" | "l" | "?" | "h":  # the same key again leads back
                page = _PAGES[key]
                return replace(self, page="overview" if self.page == page else page)
            case "up" | "down" if replicas:
                place = replicas.index(self.selected) if self.selected in replicas else 0
                place = max(0, min(len(replicas) - 1, place + (1 if key == "down" else -1)))
                return replace(self, selected=replicas[place])
        return self
