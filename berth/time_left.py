"""How long a start still takes, by earlier ones: see `berth.records.starts`. Pure, and without imports that cost
time: the foreground process has it too.
"""

from collections.abc import Mapping
from typing import NamedTuple

SLOW: float = 2.0  # times what it usually takes
SLOW_S: float = 60.0  # more than that, at least


class Usual(NamedTuple):
    """What earlier starts of the same kind took."""

    seconds: float | None  # None: there was none
    phases: Mapping[str, float]  # the seconds of each, in their order


def left_s(usual: Usual, phase: str, percent: float | None, took_s: float) -> float | None:
    """Until it is ready. There are three cases: 1. earlier starts had the present phase: the rest of it, by its
    percentage or by the time so far, and all later ones 2. they had not: the rest of the whole 3. there was none: the
    rest of a download by its speed, which is less than the whole. None: unknown, or longer than ever.
    """
    if usual.seconds is None:
        return took_s * (100 - percent) / percent if phase == "download" and percent else None
    rest = usual.seconds - took_s
    if phase in usual.phases:
        names = list(usual.phases)
        earlier, later = names[: names.index(phase)], names[names.index(phase) + 1 :]
        own, before = usual.phases[phase], sum(usual.phases[name] for name in earlier)
        done = min(max(took_s - before, 0.0), own) if percent is None else own * percent / 100
        rest = own - done + sum(usual.phases[name] for name in later)
        rest += max(usual.seconds - sum(usual.phases.values()), 0.0)  # after the last one, until it is ready
    return rest if rest > 0 else None


def is_slow(usual_s: float | None, took_s: float) -> bool:
    return usual_s is not None and took_s > SLOW * usual_s and took_s - usual_s > SLOW_S


def words(seconds: float) -> str:
    """In two units at most: 40 s, 3 min, 2 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
