"""Quality of simulated engines, over the wire: each dialect is asked in the same way."""

import asyncio
from dataclasses import replace

import pytest

from berth.bench import quality
from berth.bench.client import EngineClient
from berth.bench.quality import SCHEMAS, TOOLS, Reference, quality_of, reference_of
from berth.plan import DialectName, Launch
from berth.records.results import Likeness, Quality
from tests.fakes.plans import make_replica
from tests.sim.harness import running


def client_of(port: int, dialect: str) -> EngineClient:
    replica = make_replica(launch=Launch(argv=("x",)), port=port)
    return EngineClient(replace(replica, served_name="sim", dialect=DialectName(dialect)))


def measured(first: str, second: str, *faults: str, differs: float = 0.0) -> tuple[Reference | None, Quality]:
    async def scene(ports: tuple[int, int]) -> tuple[Reference | None, Quality]:
        own, other = client_of(ports[0], first), client_of(ports[1], second)
        try:
            reference = await reference_of(own, 4)
            return reference, await quality_of(other, reference)
        finally:
            own.close()
            other.close()

    with running(first) as one, running(second, *faults, differs=differs) as two:
        return asyncio.run(scene((one.port, two.port)))


@pytest.mark.parametrize(("first", "second"), [("vllm", "sglang"), ("sglang", "vllm"), ("vllm", "vllm")])
def test_equal_engines_are_the_same_and_keep_to_schemas_and_tools(first: str, second: str) -> None:
    reference, found = measured(first, second)
    assert reference is not None
    assert reference.floor is not None
    assert reference.floor.same_top == 1
    assert (found.likeness, found.same_top, found.mean_kl) == (Likeness.SAME, 1.0, 0.0)
    assert found.positions > 100
    assert (found.schemas, found.tools) == ((len(SCHEMAS),) * 2, (len(TOOLS),) * 2)
    assert found.problems == ()


@pytest.mark.parametrize("second", ["vllm", "sglang"])
def test_engine_with_other_tokens_is_different(second: str) -> None:
    _reference, found = measured("vllm", second, differs=0.08)
    assert found.likeness is Likeness.DIFFERENT
    assert found.same_top is not None
    assert found.same_top < 0.97


def test_engine_that_fails_has_problems_and_unknown_answers() -> None:
    _reference, found = measured("vllm", "vllm", "status=500")
    assert found.likeness is Likeness.UNKNOWN
    assert (found.schemas[0], found.tools[0]) == (0, 0)
    assert any("status 500" in problem for problem in found.problems)


def test_engine_that_scores_no_prompts_is_unknown() -> None:
    async def scene(port: int) -> Quality:
        client = client_of(port, "trtllm")
        try:
            return await quality_of(
                client, Reference(prompts=((300, 301),), answers=((302,),), scores=([],), floor=None)
            )
        finally:
            client.close()

    with running("trtllm") as server:
        found = asyncio.run(scene(server.port))
    assert found.likeness is Likeness.UNKNOWN


def test_answers_that_reach_their_limit_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "_MOST_TOKENS", 2)
    _reference, found = measured("vllm", "sglang")
    assert (found.schemas, found.tools, found.problems) == ((0, 0), (0, 0), ())
