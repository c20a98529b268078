"""Which engines are imported once and forked from then on. Pure."""

from collections.abc import Iterator, Sequence

from berth.engines import vllm
from berth.plan import EngineName, Launch, Load, ModelRoute, Preload, Replica
from berth.processes import REPLICA_MARKER


def preloads(routes: Sequence[ModelRoute], replicas: Sequence[Replica], wish: str) -> Iterator[Preload]:
    """One for vLLM, if a model is loaded on request: the others start once, with Berth, and it would hold its memory
    for nothing. On GPUs only where that is wished: it has not been measured there. `wish`: BERTH_FORK_ENGINES.
    """
    on_request = {name for route in routes if route.load is Load.ON_REQUEST for name in route.replicas}
    able = [
        (one, one.launch)
        for one in replicas
        if one.launch is not None and one.engine is EngineName.VLLM and one.ranks is None
        if wish == "on" or (wish == "auto" and not one.gpus)
    ]
    like, launch = next(((one, launch) for one, launch in able if one.name in on_request), (None, None))
    if like is None or launch is None:
        return
    yield Preload(
        name=f"{like.engine}.preload",
        engine=like.engine,
        like=like.name,
        replicas=tuple(one.name for one, other in able if _alike(launch, other)),
        modules=vllm.PRELOADED_MODULES + (vllm.PRELOADED_FOR_GPU if like.gpus else vllm.PRELOADED_FOR_CPU),
        differing=(REPLICA_MARKER, *vllm.DIFFERING),
        adds=vllm.FORK_ON_GPU if like.gpus else {},
        replaced={} if like.gpus else vllm.REPLACED_ON_CPU,
    )


def _alike(one: Launch, other: Launch) -> bool:
    """Whether both can be forked from the same process. `berth exec` compares the rest of the environment."""
    first, second = (
        {name: value for name, value in launch.env.items() if name not in vllm.DIFFERING} for launch in (one, other)
    )
    return (one.argv[0], one.unset, first) == (other.argv[0], other.unset, second)
