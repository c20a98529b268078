"""`berth revisions` and `berth diff`: the history of the models' revisions as text."""

import time
from collections.abc import Sequence

import msgspec

from berth.errors import ControlError
from berth.plan import Plan, Revision, RevisionState
from berth.records.revisions import History, differences, read


def listing(plan: Plan, model: str, *, as_json: bool) -> str:
    """The newest first; `*` marks the one that was promoted last. `model`: "": all."""
    history = read(plan.paths.data_dir)
    names = [route.name for route in plan.models if model in ("", route.name, *route.aliases)]
    if not names:
        raise _unknown(plan, model)
    found = [one for name in names for one in reversed(history.of(name))]
    if as_json:
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    lines = [f"{history.problem}: ignored"] if history.problem else []
    lines += [_line(one, history) for one in found]
    return "\n".join(lines) or "no revisions are kept: Berth could not write its data directory"


def diff(plan: Plan, model: str, numbers: Sequence[int]) -> str:
    """Of two revisions; of one and the newest; without a number, of the newest and the one before."""
    name = next((route.name for route in plan.models if model in (route.name, *route.aliases)), None)
    if name is None:
        raise _unknown(plan, model)
    known = {one.number: one for one in read(plan.paths.data_dir).of(name)}
    chosen = [*numbers, *list(known)[-1:]][:2] if numbers else list(known)[-2:]
    missing = [str(number) for number in chosen if number not in known]
    if missing or len(chosen) < 2 or len(numbers) > 2:
        which = f"no revision {', '.join(missing)}" if missing else "no two revisions to compare"
        raise ControlError(f"{name}: {which}. Kept: {', '.join(map(str, known)) or 'none'}")
    first, second = (known[number] for number in chosen)
    pairs = [
        *differences(first.says, second.says),
        *((f"version of {field}", old, new) for field, old, new in differences(first.versions, second.versions)),
    ]
    lines = [f"{name}: revision {first.number} -> {second.number}"]
    for field, old, new in pairs:
        lines += [f"  {field}"] + [f"    {sign} {text}" for sign, text in (("-", old), ("+", new)) if text]
    return "\n".join(lines if pairs else [f"{lines[0]}: nothing differs"])


def _line(one: Revision, history: History) -> str:
    mark = "*" if one == history.promoted(one.model) else " "
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.at))
    engines = one.says.get("engines") or ", ".join(engine for engine in one.versions if engine != "source")
    state = "" if one.state is RevisionState.PROMOTED else f", {one.state}"
    reason = f": {one.reason}" if one.reason else ""
    return f"{mark} {one.model} {one.number}  {when}  by {one.by}  {engines or 'chosen by Berth'}{state}{reason}"


def _unknown(plan: Plan, model: str) -> ControlError:
    names = ", ".join(route.name for route in plan.models)
    return ControlError(f"model {model!r} is not in the plan. Models: {names}")
