"""The field `replicas` of a model in the YAML form of BERTH_MODELS."""

from collections.abc import Sequence
from typing import Any, Final

from berth.boot.config import parsers
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_spec import EngineSpec
from berth.boot.config.yaml_text import Tree, mapping, scalar
from berth.plan import EngineName, Standby

MOST_REPLICAS: Final = 64
EXAMPLE: Final = "replicas: 2, or replicas: {min: 1, max: 3}"
COUNT = Rule(
    parse=parsers.whole_number(1, MOST_REPLICAS),
    allowed=f"a number from 1 to {MOST_REPLICAS}, or a range from `min`, which are loaded at the start, to `max`",
    example=EXAMPLE,
)


def replica_counts(problems: Problems, place: str, tree: Tree) -> dict[str, int]:
    """How many there are, and how many of them at the start."""
    if not isinstance(tree, dict):
        count = scalar(problems, place, tree, COUNT)
        return {} if count is None else {"replicas": count, "replicas_at_start": count}
    known = mapping(problems, place, tree, known=("min", "max"), example=EXAMPLE)
    if "max" not in known:
        problems.reject(f"{place}.max", "", "missing", COUNT)
        return {}
    least = scalar(problems, f"{place}.min", known.get("min", "1"), COUNT)
    most = scalar(problems, f"{place}.max", known["max"], COUNT)
    if least is None or most is None:
        return {}
    if least > most:
        problems.reject(place, f"{least} to {most}", "min is above max", COUNT)
    return {"replicas": most, "replicas_at_start": least}


def check_replicas(problems: Problems, name: str, given: dict[str, Any], engines: Sequence[EngineSpec]) -> None:
    """What several replicas mean for the other fields. All of them serve, so that `standby` becomes hot."""
    count, gpus = given.get("replicas", 1), given.get("gpus")
    if count == 1:
        return
    if isinstance(gpus, tuple) and len(gpus) % count:
        allowed, reason = "as many for each replica", f"{len(gpus)} GPUs cannot be divided among {count} replicas"
        problems.add(f"{name}.gpus", ", ".join(map(str, gpus)), reason, allowed=allowed, example="gpus: 1")
    if given.setdefault("standby", Standby.HOT) is not Standby.HOT:
        allowed = "with replicas: hot, or leave it out"
        problems.add(f"{name}.standby", given["standby"], "all replicas serve", allowed=allowed, example="standby: hot")
    if given.get("auto") or len(engines) > 1 or any(engine.engine is EngineName.REMOTE for engine in engines):
        reason = "replicas are copies of one engine that Berth starts"
        allowed = "without `engines`, or with one; several that serve side by side: standby: hot"
        problems.add(f"{name}.replicas", str(count), reason, allowed=allowed, example="engines: [vllm]")
