"""Two boxes that have the whole model, each a replica of the other's: more throughput without a cluster."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.appliance import Appliance, kill
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AT_ONCE, EACH = 8, 12


def peer(port: int, other: int) -> Appliance:
    url = f"http://127.0.0.1:{other}/v1"
    engines = f"['sim:vllm', {{url: '{url}', dialect: vllm}}]"
    models = f"m: {{source: same, standby: hot, engines: {engines}}}"
    return Appliance(models, BERTH_PORT=str(port), BERTH_AFFINITY="0")


def all_ready(box: Appliance) -> bool:
    return all(replica["status"] == "ready" for replica in box.replicas().values())


@pytest.fixture
def peers() -> Iterator[tuple[Appliance, Appliance]]:
    ports = free_port(), free_port()
    with peer(ports[0], ports[1]) as one:
        two = peer(ports[1], ports[0])
        two.start()
        try:
            one.wait(lambda: all_ready(one) and all_ready(two), 120)
            yield one, two
        finally:
            two.close()


def test_a_box_that_is_killed_loses_no_request(peers: tuple[Appliance, Appliance]) -> None:
    """Clients of the other box: what it had sent to its peer is sent again."""
    one, two = peers
    answered: list[str] = []
    killed = asyncio.Event()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}

    async def client(http: httpx.AsyncClient) -> None:
        for number in range(EACH):
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 40
            answered.append(answer.headers["x-berth-replica"])
            if number >= EACH // 3 and not killed.is_set() and "m-attached" in answered:
                killed.set()
                for process in await asyncio.to_thread(two.processes):
                    kill(process)

    async def load() -> None:
        async with (
            httpx.AsyncClient(base_url=one.url, timeout=120, trust_env=False, verify=NO_AUTHORITIES) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(AT_ONCE):
                tasks.create_task(client(http))

    asyncio.run(load())
    assert killed.is_set(), f"the peer got nothing: {answered}"
    assert len(answered) == AT_ONCE * EACH
    assert {"m-sim", "m-attached"} == set(answered)
