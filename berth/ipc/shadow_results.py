"""What the counts of a shadow say: shares and means with their intervals; pure."""

import math
from typing import Final

from berth.intervals import mean_interval, share_interval
from berth.ipc.shadow import (
    FAILURES,
    MEANS,
    PLACES,
    RATES,
    WIDTH,
    Counts,
    Mean,
    Mirror,
    Rate,
    Result,
    Results,
    Shadow,
    ShadowPhase,
    Skip,
    less,
    on_its_way,
)

_PLAIN: Final = "logprobs"  # a mean of the values themselves; the others are ratios


def of_shadow(shadow: Shadow, model: str, now: float) -> Results:
    """`now`: of time.monotonic()."""
    left_s = max(0.0, shadow.since + shadow.options.for_s - now) if shadow.is_on else 0.0
    return results(model, shadow.candidate, shadow.phase, shadow.options.share, shadow.counts, left_s=left_s)


def of_mirror(mirror: Mirror, totals: Counts, now: float) -> Results:
    """`now`: Unix seconds."""
    counts, left_s = less(totals, mirror.before), max(0.0, mirror.ends - now)
    return results(mirror.model, mirror.replica, ShadowPhase.MIRRORING, mirror.share, counts, left_s=left_s)


def results(model: str, replica: str, phase: str, share: float, counts: Counts, *, left_s: float = 0.0) -> Results:
    counts = counts or (0.0,) * WIDTH
    found = {one: int(counts[PLACES[f"result {one}"]]) for one in Result}
    failures = {one: int(counts[PLACES[f"failed {one}"]]) for one in FAILURES}
    pairs = sum(found.values())
    return Results(
        model=model,
        replica=replica,
        phase=str(phase),
        share=share,
        left_s=round(left_s, 1),
        requests=int(counts[PLACES["requests"]]),
        not_chosen=int(counts[PLACES["not_chosen"]]),
        waiting=max(0, int(on_its_way(counts))),
        pairs=pairs,
        **{one.value: count for one, count in found.items()},
        skipped={one.value: int(counts[PLACES[f"skipped {one}"]]) for one in Skip},
        failures={one: count for one, count in failures.items() if count},
        failure_rate=rate(found[Result.ERROR], pairs),
        rates={one: rate(counts[PLACES[f"same {one}"]], counts[PLACES[f"of {one}"]]) for one in RATES},
        means={one: mean(one, counts) for one in MEANS},
    )


def rate(same: float, of: float) -> Rate:
    if not of:
        return Rate(same=0, of=0)
    low, high = share_interval(same, of)
    return Rate(same=int(same), of=int(of), share=same / of, low=low, high=high)


def mean(name: str, counts: Counts) -> Mean:
    count, total, squares = (counts[PLACES[f"{part} {name}"]] for part in ("count", "sum", "squares"))
    found = mean_interval(count, total, squares)
    if found is None:
        return Mean(pairs=int(count))
    shown = found if name == _PLAIN else tuple(math.exp(min(value, 700.0)) for value in found)
    return Mean(pairs=int(count), mean=shown[0], low=shown[1], high=shown[2])


def lines(found: Results) -> list[str]:
    """For people."""
    chosen, left = found.requests - found.not_chosen, f", {found.left_s:.0f} s left" if found.left_s else ""
    skipped = ", ".join(f"{reason} {count}" for reason, count in found.skipped.items() if count)
    text = [f"  {found.replica} gets {100 * found.share:.3g}% of the conversations: {found.phase}{left}"]
    if not found.requests:
        return text
    text.append(f"  requests    {found.requests}, {chosen} of them chosen")
    text.append(f"  compared    {found.pairs}, and {found.waiting} on their way")
    text.append(f"  not made    {sum(found.skipped.values())}" + (f": {skipped}" if skipped else ""))
    shown = ", ".join(f"{one.value} {count}" for one in Result if (count := getattr(found, one.value)))
    text += [f"  results     {shown}"] * bool(found.pairs)
    failures = ", ".join(f"{kind} {count}" for kind, count in found.failures.items())
    text += [f"  failures    {failures}"] * bool(found.failures)
    for name, one in found.rates.items():
        if one.share is not None:
            interval = f"{one.share:.2%} ({one.low:.2%} to {one.high:.2%})"
            text.append(f"  {name:11} {interval}: {one.same} of {one.of} {RATES[name]}")
    for name, value in found.means.items():
        if value.mean is not None:
            unit = "nats" if name == _PLAIN else "times the client's"
            text.append(f"  {name:11} {value.mean:.3f} ({value.low:.3f} to {value.high:.3f}) {unit}: {MEANS[name]}")
    return text
