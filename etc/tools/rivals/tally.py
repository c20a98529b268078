"""What one load came to: counted while it runs (`Tally`), and summed up when it is over (`Result`)."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from etc.tools.rivals.figures import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    requests: int  # that were answered whole and right
    tokens: int
    unfinished: int  # answers that were not at their end when the time was over
    failures: Mapping[str, int]  # what went wrong, and how often
    wall_s: float
    cpu_s: float  # of the load generator itself
    first: Spread | None  # from the request to the first token; of whole answers: to the end
    gap: Spread | None  # from each token to the next
    whole: Spread | None  # from the request to the end of the answer

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "Result":
        return msgspec.json.decode(text, type=Result)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Mutable. Times are in seconds; the arrays hold a million of them in 8 MB."""

    requests: int = 0
    tokens: int = 0
    unfinished: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    first_s: "array[float]" = field(default_factory=lambda: array("d"))
    gap_s: "array[float]" = field(default_factory=lambda: array("d"))
    whole_s: "array[float]" = field(default_factory=lambda: array("d"))

    def result(self, *, wall_s: float, cpu_s: float) -> Result:
        return Result(
            requests=self.requests,
            tokens=self.tokens,
            unfinished=self.unfinished,
            failures=dict(self.failures),
            wall_s=wall_s,
            cpu_s=cpu_s,
            first=Spread.of(self.first_s or self.whole_s),
            gap=Spread.of(self.gap_s),
            whole=Spread.of(self.whole_s),
        )
