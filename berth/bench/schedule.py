"""When requests are sent, decided before the first one; pure."""

import itertools
import random
from collections.abc import Iterator


def arrivals(rate: float, seed: int, burst: float = 1.0) -> Iterator[float]:
    """Seconds from the start, without end. `burst` is the coefficient of variation of the time between two requests:
    1 is a Poisson process, more is burstier, as real traffic is.
    """
    source = random.Random(f"arrivals {seed}")  # noqa: S311 - a schedule
    shape = 1 / burst**2
    return itertools.accumulate(source.gammavariate(shape, 1 / (rate * shape)) for _ in itertools.repeat(None))
