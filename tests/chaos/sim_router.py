"""The router as a process, with pairs of simulated engines of the same weights, and single ones, behind it."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from berth.plan import DialectName, Plan, Replica
from berth.state import ReplicaStatus
from tests.chaos.engines import SimEngine
from tests.chaos.observation import WAYS, Observation, ask, make_client
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state

DIALECTS = (DialectName.VLLM, DialectName.SGLANG)
ITL = "4ms"  # an answer lasts a third of a second: time to be killed in
ENOUGH = 200  # tokens, for the whole text


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRouter:
    """Of each engine two models: `pair-vllm` is served by the vLLM, and by the SGLang when that fails; `solo-vllm` by
    the vLLM alone. The same the other way round.
    """

    router: RouterProcess
    engines: dict[str, SimEngine]

    def recover(self) -> None:
        """As if nothing had happened."""
        for engine in self.engines.values():
            engine.is_well()
        self.router.make_well(*_states(self.router.plan))

    def ask(
        self, *models: str, heard: Callable[[int], None] = lambda _: None, max_tokens: int = ENOUGH
    ) -> list[Observation]:
        """Asks each model in every way, all at the same time."""
        return asyncio.run(self._ask(models, heard, max_tokens))

    def attempts(self, model: str) -> float:
        """How often engines were asked for it so far."""
        lines = httpx.get(f"{self.router.url}/metrics", trust_env=False, verify=NO_AUTHORITIES).text.splitlines()
        found = [line for line in lines if line.startswith("berth_attempts_total{") and f'replica="{model}-' in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    async def _ask(self, models: tuple[str, ...], heard: Callable[[int], None], max_tokens: int) -> list[Observation]:
        async with make_client(self.router.url) as client:
            asks = (ask(client, model, way, heard, max_tokens=max_tokens) for model in models for way in WAYS)
            return await asyncio.gather(*asks)


@contextmanager
def sim_router(environ: dict[str, str] | None = None) -> Iterator[SimRouter]:
    """`environ`: on top of this process's, for the router."""
    with ExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="bc-", ignore_cleanup_errors=True))
        engines = {name.value: stack.enter_context(SimEngine(name, "--itl", ITL)) for name in DIALECTS}
        plan = make_plan(run_dir, _replicas(engines), limits=LIMITS)
        publish(plan, *_states(plan))
        router = _start(plan, environ or {})
        stack.callback(router.end)
        router.await_answer()
        yield SimRouter(router=router, engines=engines)


def _start(plan: Plan, environ: dict[str, str]) -> RouterProcess:
    """A process inherits its parent's environment, and there is no other way to tell it more."""
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    try:
        return RouterProcess(plan)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _replicas(engines: dict[str, SimEngine]) -> list[Replica]:
    found = []
    for first in DIALECTS:
        second = next(name for name in DIALECTS if name is not first)
        found += [_replica(f"pair-{first}", one, engines) for one in (first, second)]
        found.append(_replica(f"solo-{first}", first, engines))
    return found


def _replica(model: str, dialect: DialectName, engines: dict[str, SimEngine]) -> Replica:
    made = replica(f"{model}-{dialect}", engines[dialect].url, dialect=dialect, vocab_size=32000)
    return replace(made, served_name="sim", weights="the same")


def _states(plan: Plan) -> list[Any]:
    return [replica_state(one.name, ReplicaStatus.READY) for one in plan.replicas]
