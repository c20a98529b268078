"""Rules about the engines of a run and what they have in common: F2, F3 and F11; pure. Those of a window are in
`berth.bench.window`.
"""

from collections.abc import Iterator, Mapping, Sequence

from berth.plan import Replica
from berth.records.results import EngineResult

MOST_CLOCK = 1.03  # of the GPUs' clock, between engines
MOST_FRACTION = 0.02  # of a GPU's memory
_HANDICAPS: Mapping[str, str] = {  # what the user's own arguments take from an engine
    "--enforce-eager": "CUDA graphs",
    "--disable-cuda-graph": "CUDA graphs",
    "--no-enable-prefix-caching": "its prefix cache",
    "--disable-radix-cache": "its prefix cache",
    "--no-enable-chunked-prefill": "chunked prefill",
    "--disable-chunked-prefix-cache": "chunked prefill",
    "--disable-overlap-schedule": "overlapped scheduling",
    "--no-async-scheduling": "overlapped scheduling",
}


def unlike(replicas: Sequence[Replica]) -> Iterator[str]:
    """The rules that a comparison of these engines breaks before anything is measured."""
    for name, values in (
        ("weights", {one.name: one.weights for one in replicas if one.weights}),
        ("context", {one.name: str(one.context) for one in replicas if one.context}),
        ("GPUs", {one.name: ", ".join(map(str, one.gpus)) or "none" for one in replicas}),
    ):
        if len(set(values.values())) > 1:
            yield f"F2: not the same {name}: {_listed(values)}. Say it for the model, not for one engine."
    without = {one.name: handicaps(one) for one in replicas}
    for what in dict.fromkeys(what for found in without.values() for what in found):
        slow = [name for name, found in without.items() if what in found]
        if len(slow) < len(replicas):
            arguments = ", ".join(dict.fromkeys(without[name][what] for name in slow))
            yield f"F3: {', '.join(slow)} has to do without {what} ({arguments}), the others do not"


def noted(replicas: Sequence[Replica]) -> Iterator[str]:
    """What is not alike, and need not be: to be known when the figures are read."""
    fractions = {one.name: one.memory_fraction for one in replicas if one.memory_fraction is not None}
    if fractions and max(fractions.values()) - min(fractions.values()) > MOST_FRACTION:
        shown = {name: f"{fraction:.0%}" for name, fraction in fractions.items()}
        yield f"F2: not the same share of the GPUs' memory: {_listed(shown)}"
    running = {one.name: str(one.concurrency or "no limit") for one in replicas}
    if len(set(running.values())) > 1:
        yield f"F3: not as many requests at a time: {_listed(running)}"
    for one in replicas:
        if one.launch and (given := (*one.launch.own_args, *(f"{name}=***" for name in one.launch.own_env))):
            yield f"F3: {one.name} is measured as configured: {' '.join(given)}"


def handicaps(replica: Replica) -> dict[str, str]:
    """What the engine has to do without, and the argument that says so."""
    arguments = [argument.partition("=")[0] for argument in replica.launch.own_args] if replica.launch else []
    return {_HANDICAPS[one]: one for one in arguments if one in _HANDICAPS}


def clocks(engines: Sequence[EngineResult]) -> tuple[str, ...]:
    """F11: the card ran as fast for each engine."""
    medians = {}
    for one in engines:
        found = sorted(window.clock_mhz for window in one.windows() if window.clock_mhz)
        if found:
            medians[one.replica] = found[len(found) // 2]
    if not medians or max(medians.values()) <= MOST_CLOCK * min(medians.values()):
        return ()
    shown = {name: f"{clock:.0f} MHz" for name, clock in medians.items()}
    return (f"F11: the clock of the GPU was not the same for all engines: {_listed(shown)}",)


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
