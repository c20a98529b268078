"""`engines: auto`: the order of a model's engines by the newest result of `berth bench` that still applies. Pure.

A result applies if it compared exactly these engines, in these versions and with these arguments, for these weights, on
GPUs as they are here. A run that was quick, invalid or of another method chooses nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.measurements import compared_as
from berth.boot.planner.resolve import ResolvedModel
from berth.plan import EngineName, MeasuredAs
from berth.records.measured import gpu_kind
from berth.records.results import METHOD, BenchResult
from berth.units import date


def by_result(model: ResolvedModel, host: HostInfo) -> ResolvedModel:
    """With the chosen engine first, and with what decided about it as the reason."""
    own = [_anywhere(compared_as(model, number, host, ())) for number in range(len(model.entries))]
    weights = own[0].model  # of whichever versions
    results = [
        result
        for result in host.results()
        if any(one.compared_as and one.compared_as.model == weights for one in result.engines)
    ]
    found = next((one for one in reversed(results) if _applies(one, own, host)), None)
    if found is None:
        reason = f"auto, without a result for these engines, versions and GPUs: `berth bench {model.spec.name}`"
        if results:
            reason += f" (bench {results[-1].id} of {date(results[-1].created)} does not apply)"
        return replace(model, reason=f"{reason}; {model.reason}")
    chosen = next(
        _anywhere(one.compared_as) for one in found.engines if one.replica == found.chosen and one.compared_as
    )
    first = own.index(chosen)
    entries = (model.entries[first], *(one for number, one in enumerate(model.entries) if number != first))
    reason = f"auto, bench {found.id} of {date(found.created)}: {'; '.join(found.reasons)}"
    return replace(model, entries=entries, reason=reason)


def _applies(result: BenchResult, own: Sequence[MeasuredAs], host: HostInfo) -> bool:
    if not result.chosen or result.quick or not result.valid or result.method != METHOD:
        return False
    found = [one.compared_as for one in result.engines if one.compared_as]
    kinds = {gpu_kind([gpu]) for gpu in host.inventory.gpus if not gpu.mig} or {"cpu"}
    here = len(kinds) == 1 and all(one.gpu_kind in kinds or one.engine is EngineName.SIM for one in found)
    return here and sorted(map(repr, map(_anywhere, found))) == sorted(map(repr, own))


def _anywhere(of: MeasuredAs | None) -> MeasuredAs:
    """Without the GPUs, which are not known before the engines are placed."""
    if of is None:
        raise ValueError("an attached engine is not compared")
    return replace(of, gpu_kind="", gpus=0)
