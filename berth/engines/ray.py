"""Ray, with which vLLM runs on several boxes: its head next to the engine, and its workers on the other boxes.

Each model has a Ray of its own, which lives as long as its ranks: nothing of an earlier generation is left in it.
"""

from berth.engines.base import LaunchOrder
from berth.engines.environment import UNSET, cache_folders, engine_environment, rank_environment
from berth.plan import Launch, Ranks

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable, not a secret
OBJECT_STORE_BYTES = 1 << 30  # vLLM passes its data by other ways; Ray would take a third of the RAM


def vllm_ranks(ranks: Ranks) -> dict[str, str]:
    """The variables of vLLM on several boxes. Ray accepts no process without its token."""
    env = {"VLLM_HOST_IP": ranks.own, **rank_environment(ranks)}
    return env | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": ranks.meeting} if ranks.ray else env


def ray_head(order: LaunchOrder) -> Launch:
    """It runs next to the engine, which control stops if this ends."""
    ranks = _ranks(order)
    return _launch(order, ranks, ["--head", "--port", str(ranks.port), "--include-dashboard=false"])


def ray_worker(order: LaunchOrder) -> Launch:
    """The whole rank of another box: the engine on the head starts its workers in it."""
    ranks = _ranks(order)
    return _launch(order, ranks, ["--address", ranks.meeting])


def _launch(order: LaunchOrder, ranks: Ranks, words: list[str]) -> Launch:
    argv = [f"{order.home}/bin/ray", "start", *words, "--node-ip-address", ranks.own]
    argv += ["--num-gpus", str(len(order.gpus)), "--object-store-memory", str(OBJECT_STORE_BYTES)]
    argv += ["--disable-usage-stats", "--block"]
    env = engine_environment(order, "vllm") | vllm_ranks(ranks)  # the workers that it starts inherit this
    return Launch(argv=tuple(argv), env=env, unset=UNSET, folders=cache_folders(env))


def _ranks(order: LaunchOrder) -> Ranks:
    if order.ranks is None:
        raise ValueError(f"{order.replica!r} runs on one box, without Ray")
    return order.ranks
