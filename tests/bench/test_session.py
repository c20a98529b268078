"""A whole run against simulated engines, with a control that is played."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from berth.bench import workload
from berth.bench.measure import Conditions
from berth.bench.plan_points import Profile
from berth.bench.session import Session, Setup
from berth.ipc.operations import Reply, Request, Step
from berth.plan import DialectName, Keys, Launch, Listen, ModelRoute, Replica, RunPaths, Task
from berth.records.results import BenchResult, Likeness, Point, Slo
from berth.state import Progress, ReplicaState, ReplicaStatus, State
from tests.bench.test_lease import LEASE, Control
from tests.fakes.plans import make_plan, make_replica
from tests.sim.harness import running

SMALL = Profile(
    rounds=1, windows=2, requests=6, per_place=1, closed_s=0, open_s=0, warm_s=0, first_warm_s=0, search_s=0, quick=True
)
DIALECTS = (DialectName.VLLM, DialectName.SGLANG)


@contextmanager
def engines(*times: float) -> Iterator[tuple[Replica, ...]]:
    with running("vllm", itl_s=times[0]) as one, running("sglang", itl_s=times[1]) as two:
        yield tuple(
            replace(
                make_replica(f"m-{dialect}", launch=Launch(argv=("x",)), port=server.port),
                served_name="sim", dialect=dialect, vocab_size=32_000, concurrency=4,
            )
            for dialect, server in zip(DIALECTS, (one, two), strict=True)
        )  # fmt: skip


def session_of(
    replicas: tuple[Replica, ...],
    run_dir: Path,
    said: list[str],
    host: str = "127.0.0.1",
    tls_cert: str = "",
    **fields: Any,
) -> Session:
    conditions = Conditions(
        workload=workload.parse("32/8"), slo=Slo(), profile=SMALL, seed=1, vocab_size=32_000, progress=said.append
    )
    names = tuple(one.name for one in replicas)
    route = ModelRoute(name="sim", source="simulated", task=Task.GENERATE, replicas=names)
    port = urlsplit(replicas[0].url).port or 0  # in the router's place
    plan = replace(
        make_plan(str(run_dir), *replicas),
        paths=RunPaths(run_dir=str(run_dir), data_dir=""),
        listen=Listen(host=host, port=port, workers=1, tls_cert=tls_cert),
    )
    states = tuple(
        ReplicaState(
            name=name, status=ReplicaStatus.FAILED, since=0, reason="out of memory", progress=Progress(phase="load")
        )
        for name in names
    )
    state = State(sequence=1, published_at=0, control_pid=1, replicas=states)
    setup = Setup(plan=plan, keys=Keys(), route=route, replicas=replicas, conditions=conditions, **fields)
    return Session(setup, lambda: state)


def run(control: Control, times: tuple[float, float], said: list[str], **fields: Any) -> BenchResult:
    with engines(*times) as replicas:

        async def scene(path: Path) -> BenchResult:
            return await session_of(replicas, path.parent, said, **fields).run()

        found = asyncio.run(control.serve(scene))
    assert isinstance(found, BenchResult)
    return found


def test_each_engine_is_started_looked_at_and_measured_at_the_same_points() -> None:
    control, said = Control(), list[str]()
    found = run(control, (0.001, 0.004), said, host="0.0.0.0")
    first, second = found.engines
    assert [one.quality.likeness for one in found.engines if one.quality] == [Likeness.SAME] * 2
    points = [{window.point for window in one.windows()} for one in (first, second)]
    assert points[0] <= points[1]
    assert Point(concurrency=1) in points[0]
    assert any(point.rate for point in points[0])
    roles = [window.role for window in first.starts[0].windows]
    searched = roles.count("search")  # a busy machine may end the search sooner
    assert searched > 0
    assert set(roles[:searched]) == {"search"}
    ratios = {one.metric: one.ratio or 0 for one in found.comparisons}
    assert ratios["tpot p50 at 1 at a time"] > 1.5
    assert found.chosen == ""
    assert [one.own_cost.problem for one in found.engines if one.own_cost] == ["", ""]
    assert all(one.own_cost and one.own_cost.pairs >= 5 and one.own_cost.tpot for one in found.engines)
    wanted = [one.renew.replica for one in control.asked if one.renew]
    assert [name for name, after in zip(wanted, [*wanted[1:], "-"], strict=True) if name != after] == [
        *("", "m-vllm", "", "m-sglang", ""),
    ]
    assert "m-vllm: quality" in said
    assert "m-sglang: start 2 of 2" in said


def test_engine_that_does_not_start_is_left_out_with_its_reason() -> None:
    def reply(request: Request) -> Reply | None:
        if request.renew and request.renew.replica == "m-sglang":
            return Reply(operation=LEASE, steps=(Step(replica="m-sglang", status="failed", to="ready"),))
        return None

    said = list[str]()
    elsewhere = {"host": "192.0.2.7", "tls_cert": "cert.pem"}
    found = run(Control(reply), (0.001, 0.001), said, points=(Point(concurrency=2),), **elsewhere)
    assert [one.problem for one in found.engines] == ["", "it does not start: out of memory"]
    assert found.engines[0].own_cost
    assert found.engines[0].own_cost.problem.startswith("the router speaks TLS on 192.0.2.7 alone")
    assert found.engines[1].own_cost is None
    assert {window.point for window in found.engines[0].windows()} == {Point(concurrency=2)}
    assert found.comparisons == ()
    assert "m-sglang: load" in said
