"""An engine that announces fewer bytes than it sends. `sim` can only announce more of them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from berth.plan import DialectName
from berth.sim.options import PARAGRAPH
from berth.state import ReplicaStatus
from tests.chaos.engines import SimEngine
from tests.chaos.observation import WAYS, Api, Observation, Outcome, ask, make_client, verdicts
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import FakeUpstream, Request, Step, answer

pytestmark = pytest.mark.slow

MISSING = 600  # bytes: more than the frames that only end a stream


def short(engine: SimEngine, request: Request) -> tuple[Step, ...]:
    """What the engine answers, under a length that is too small."""
    true = httpx.post(f"{engine.url}{request.path}", content=request.body, headers=JSON, trust_env=False)
    head = f"content-type: {true.headers['content-type']}\r\n"
    announced = answer(true.content[:-MISSING], headers=head)
    return (announced + true.content[-MISSING:],)


JSON = {"content-type": "application/json"}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The router's; the first engine of both models lies about lengths."""
    with FakeUpstream() as liar, SimEngine(DialectName.SGLANG) as honest:
        liar.answers_with(lambda request: short(honest, request))
        replicas = [
            replica("pair-vllm", liar.url),
            replica("pair-sglang", honest.url, dialect=DialectName.SGLANG),
            replica("solo-vllm", liar.url),
        ]
        plan = make_plan(str(tmp_path), [replace(one, served_name="sim", weights="the same") for one in replicas])
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in plan.replicas))
        router = RouterProcess(plan)
        router.await_answer()
        yield router.url
        assert router.stop() == 0


async def everything(url: str) -> list[Observation]:
    async with make_client(url) as client:
        asks = [ask(client, model, way, max_tokens=200) for model in ("pair", "solo") for way in WAYS]
        return list(await asyncio.gather(*asks))


def test_content_length_too_small(url: str) -> None:
    """Twice: a connection with bytes left over must not serve another request."""
    for _ in range(2):
        seen = asyncio.run(everything(url))
        assert verdicts(seen) == {"pair": {Outcome.WHOLE}, "solo": {Outcome.TOLD}}, seen
    assert {one.text for one in seen if one.way.api is Api.CHAT and one.model == "pair"} == {PARAGRAPH}
