"""What a soak has shown: what was saved, what was moved, what failed honestly and why, and what must not be."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from etc.tools.rivals.table import table
from tests.chaos.observation import WAYS, Outcome
from tests.chaos.process_usage import ProcessUsage, growth
from tests.chaos.soak_clients import Answer

_SAMPLE = re.compile(
    r"^(berth_(?:fallbacks|streams_continued|streams_broken|requests)_total)\{(.*)\} (\S+)$", re.MULTILINE
)
_REASON = re.compile(r'reason="(\w+)"')

Counters = dict[tuple[str, str], float]  # metric and reason -> how many, over all models


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    seconds: float
    answers: Sequence[Answer]
    faults: Mapping[str, int]
    counters: Counters  # what the router counted meanwhile
    before: Mapping[str, ProcessUsage]  # after the warm-up
    after: Mapping[str, ProcessUsage]


def counters(metrics: str) -> Counters:
    found: Counters = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        reason = _REASON.search(labels)
        key = (name, reason[1] if reason else "")
        found[key] = found.get(key, 0) + float(value)
    return found


def difference(after: Counters, before: Counters) -> Counters:
    return {key: value - before.get(key, 0) for key, value in after.items()}


def wrongs(soak: Soak) -> list[str]:
    """Everything that must not be; empty where all is well."""
    bad = [one for one in soak.answers if not one.is_honest]
    lines = [f"{one.outcome}: {one.model}, {one.way}: ...{one.text[-60:]!r}" for one in bad]
    if not any(one.outcome is Outcome.WHOLE for one in soak.answers):
        lines.append("no answer was whole")
    return lines + growth(soak.before, soak.after)


def text(soak: Soak) -> str:
    parts = (_deeds(soak), _saved(soak), _failed(soak), _latencies(soak.answers), _weights(soak), _end(wrongs(soak)))
    return "\n\n".join("\n".join(part) for part in parts)


def _deeds(soak: Soak) -> Iterator[str]:
    faults = ", ".join(f"{name} {times}" for name, times in sorted(soak.faults.items()))
    yield f"{soak.seconds:g} s, done to engines: {faults or 'nothing'}"
    outcomes = Counter(one.outcome for one in soak.answers)
    yield f"{len(soak.answers)} answers: " + ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome)


def _saved(soak: Soak) -> Iterator[str]:
    yield f"saved before the first byte: {soak.counters.get(('berth_fallbacks_total', ''), 0):g}"
    yield f"moved in the middle of a stream: {soak.counters.get(('berth_streams_continued_total', ''), 0):g}"


def _failed(soak: Soak) -> Iterator[str]:
    told = Counter((one.model, one.reason) for one in soak.answers if one.outcome is Outcome.TOLD)
    yield f"failed, and said so: {told.total()}"
    yield from (f"  {times:5} {model}: {reason}" for (model, reason), times in told.most_common())
    broken = {reason: times for (name, reason), times in soak.counters.items() if name == "berth_streams_broken_total"}
    yield from (f"  {times:5g} of the streams, since: {reason}" for reason, times in sorted(broken.items()) if times)


def _latencies(answers: Iterable[Answer]) -> Iterator[str]:
    by_way = {way: sorted(one.took_s for one in answers if one.way == way) for way in WAYS}
    rows = [
        [str(way), str(len(took)), *(f"{_quantile(took, part):.2f}" for part in (0.5, 0.99, 1))]
        for way, took in by_way.items()
        if took
    ]
    yield table(["seconds", "answers", "p50", "p99", "longest"], rows)


def _quantile(values: Sequence[float], part: float) -> float:
    return values[min(int(part * len(values)), len(values) - 1)]


def _weights(soak: Soak) -> Iterator[str]:
    rows = [
        [name, f"{old.pss_bytes / 1e6:.1f}", f"{new.pss_bytes / 1e6:.1f}", str(old.open_files), str(new.open_files)]
        for name, old in soak.before.items()
        if (new := soak.after.get(name)) is not None
    ]
    yield table(["process", "PSS MB before", "after", "files before", "after"], rows)


def _end(found: Sequence[str]) -> Iterator[str]:
    yield "NOT WELL:" if found else "No answer was short or wrong without a word, and nothing has grown."
    yield from found
