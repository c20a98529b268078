"""A whole run: the lease, the starts of all engines in their order, and the result."""

import asyncio
import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from berth import __version__
from berth.bench import compare, own_cost, plan_points, rules
from berth.bench.box import Gpus
from berth.bench.client import EngineClient
from berth.bench.lease import Lease, StartError, held, taken
from berth.bench.measure import Conditions, Engine
from berth.bench.quality import TEXTS, Reference, quality_of, reference_of
from berth.plan import Keys, ModelRoute, Plan, Replica
from berth.records.results import BenchResult, EngineResult, Point, Start, Window
from berth.state import ReplicaState, State

WHO = "berth bench"
DRAIN_S = 30.0
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is measured, and where."""

    plan: Plan
    keys: Keys
    route: ModelRoute
    replicas: tuple[Replica, ...]  # one for each engine; the first is what the others are compared with
    conditions: Conditions
    points: tuple[Point, ...] = ()  # given by the user; (): found
    operation: str = ""  # the lease, if there is one already
    gpu_hour_cost: float | None = None


class Session:
    def __init__(self, setup: Setup, state: Callable[[], State | None]) -> None:
        self._show = setup.conditions.progress
        self._setup = replace(setup, conditions=replace(setup.conditions, progress=self._progress))
        self._operation = setup.operation
        self._lease: Lease | None = None
        self._state = state
        self._gpus = Gpus(setup.replicas[0].gpus)
        self._common: tuple[Point, ...] = setup.points
        self._limits: dict[str, Point] = {}
        self._reference: Reference | None = None
        self._engines = {
            one.name: EngineResult(
                replica=one.name,
                engine=one.dialect if one.engine == "sim" else one.kind,
                version=one.compared_as.version if one.compared_as else "",
                argv=one.launch.argv if one.launch else (),
                compared_as=one.compared_as,
                kv_tokens=one.memory.kv_tokens if one.memory else None,
            )
            for one in setup.replicas
        }

    def _progress(self, text: str) -> None:
        """Here, and with the lease for everybody."""
        self._show(text)
        if self._lease is not None:
            self._lease.progress = text

    async def run(self) -> BenchResult:
        """DeniedError where control does not allow it."""
        setup, began, created = self._setup, time.monotonic(), time.time()
        restore_s = max(one.start_timeout_s for one in setup.replicas)
        for rule in rules.unlike(setup.replicas):
            setup.conditions.progress(f"this run will be invalid: {rule}")
        sequence = plan_points.order(len(setup.replicas), setup.conditions.profile.rounds)
        path = setup.plan.paths.control_socket
        self._operation = setup.operation or await taken(path, setup.route.name, WHO, DRAIN_S)
        async with held(path, self._operation, WHO, restore_s) as lease:
            self._lease = lease
            for number, index in enumerate(sequence, 1):
                replica = setup.replicas[index]
                if not self._engines[replica.name].problem:
                    setup.conditions.progress(f"{replica.name}: start {number} of {len(sequence)}")
                    await self._start(lease, replica, number)
            await lease.run("", restore_s, lambda _step: None)
        return self._result(created, time.monotonic() - began)

    async def _start(self, lease: Lease, replica: Replica, number: int) -> None:
        engine = self._engines[replica.name]

        def starting(step: object) -> None:
            state = self._state_of(replica.name)
            phase = state.progress.phase if state and state.progress else getattr(step, "status", "")
            self._setup.conditions.progress(f"{replica.name}: {phase}")

        try:
            await lease.run("", replica.start_timeout_s, lambda _step: None)
            cold_s = await lease.run(replica.name, replica.start_timeout_s, starting)
        except StartError as error:
            state = self._state_of(replica.name)
            reason = state.reason if state and state.reason else str(error)
            self._engines[replica.name] = replace(engine, problem=f"it does not start: {reason}")
            return
        state = self._state_of(replica.name)
        client = EngineClient(replica, self._setup.keys.upstream_keys.get(replica.name, ""))
        running = Engine(
            client=client, conditions=self._setup.conditions, gpus=self._gpus, pid=state.pid if state else None
        )
        start = Start(
            number=number,
            cold_s=cold_s,
            phases=state.start_phases if state else {},
            memory_bytes=self._gpus.memory(),
            idle_w=await self._idle_power(),
        )
        try:
            if not engine.starts:
                await self._quality(client)
            windows = await self._windows(running, replica, lease.key, first=not engine.starts)
        finally:
            client.close()
        start = replace(start, windows=tuple(windows), warm_requests=running.warm)
        self._engines[replica.name] = replace(self._engines[replica.name], starts=(*engine.starts, start))

    async def _quality(self, client: EngineClient) -> None:
        """Before its speed. The first engine is what the others are compared with."""
        name, is_first = client.replica.name, client.replica is self._setup.replicas[0]
        self._setup.conditions.progress(f"{name}: quality")
        if is_first:
            prompts = len(TEXTS) // 4 if self._setup.conditions.profile.quick else len(TEXTS)
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                self._reference = await reference_of(client, prompts)
        quality = await quality_of(client, self._reference)
        self._engines[name] = replace(self._engines[name], quality=quality)

    async def _windows(self, running: Engine, replica: Replica, key: str, *, first: bool) -> list[Window]:
        """The first start of an engine also finds its limit, and that of the first engine the points of all."""
        found: list[Window] = []
        if first and self._setup.points:
            self._limits[replica.name] = self._setup.points[-1]
        elif first:
            found, most, reason = await running.search()
            self._limits[replica.name] = Point(concurrency=most)
            self._engines[replica.name] = replace(self._engines[replica.name], limit=reason)
            self._common = self._common or plan_points.common_points(found, most)
        points = dict.fromkeys((*self._common, self._limits[replica.name]))
        found += await running.windows(points)
        if first:  # after the windows: it changes nothing about them
            setup, conditions = self._setup, self._setup.conditions
            conditions.progress(f"{replica.name}: Berth's own cost")
            cost = await own_cost.measured(running.client, key, setup.plan, setup.route.name, conditions)
            self._engines[replica.name] = replace(self._engines[replica.name], own_cost=cost)
        return found

    async def _idle_power(self) -> float | None:
        """Before any load; after the start has settled."""
        if self._gpus.power() is None:
            return None
        await asyncio.sleep(_IDLE_S)
        return self._gpus.power()

    def _state_of(self, replica: str) -> ReplicaState | None:
        state = self._state()
        return next((one for one in state.replicas if one.name == replica), None) if state else None

    def _result(self, created: float, seconds: float) -> BenchResult:
        setup, conditions = self._setup, self._setup.conditions
        engines = tuple(self._engines.values())
        limits = {one.replica: self._limits[one.replica] for one in engines if one.replica in self._limits}
        comparisons = compare.compare(engines, compare.metrics(self._common, limits))
        broken = (*rules.unlike(setup.replicas), *rules.clocks(engines))
        chosen, reasons = compare.choice(engines, comparisons, quick=conditions.profile.quick, broken=broken)
        inventory, gpus = setup.plan.inventory, setup.replicas[0].gpus
        return BenchResult(
            berth=__version__,
            created=created,
            seconds=seconds,
            model=setup.route.name,
            source=setup.route.source,
            revision=setup.route.revision,
            context=setup.route.context,
            gpus=tuple(gpu.name for gpu in inventory.gpus if gpu.index in gpus),
            driver=inventory.driver_version,
            cpu=platform.processor() or platform.machine(),
            workload=conditions.workload.name,
            seed=conditions.seed,
            slo=conditions.slo,
            quick=conditions.profile.quick,
            engines=engines,
            comparisons=comparisons,
            chosen=chosen,
            reasons=reasons,
            broken=broken,
            operation=self._operation,
            notes=tuple(rules.noted(setup.replicas)),
            gpu_hour_cost=setup.gpu_hour_cost,
        )
