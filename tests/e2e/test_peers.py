"""Two boxes that have the whole model, each a replica of the other's: more throughput without a cluster. One of them is
killed under load, with and without Caddy in front of both.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from berth.router.exchange.headers import MOST_HOPS
from tests.e2e.appliance import ROOT, Appliance, is_open, kill, wait_for
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AT_ONCE, EACH, TOKENS = 8, 12, 40
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}
CADDY = shutil.which("caddy")
needs_caddy = pytest.mark.skipif(CADDY is None, reason="there is no caddy on PATH (Debian: apt-get install caddy)")


def peer(port: int, other: int) -> Appliance:
    attached = f"{{url: 'http://127.0.0.1:{other}/v1', dialect: vllm, weights: 'sim same'}}"
    local = "{engine: sim, dialect: vllm, args: ['--itl', '10ms']}"
    models = f"m: {{source: same, standby: hot, engines: [{local}, {attached}]}}"
    return Appliance(models, BERTH_PORT=str(port), BERTH_AFFINITY="0", BERTH_TRUSTED_PROXIES="127.0.0.1/32")


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


@dataclass(kw_only=True)
class Load:
    """Clients that ask at once, for streams and whole answers in turn. `victim` is killed in the middle of the first
    stream that one of the replicas in `doomed` answers.
    """

    victim: Appliance
    doomed: frozenset[str]
    texts: set[str] = field(default_factory=set)
    answered: list[str] = field(default_factory=list)  # by which replica
    again: int = 0  # asked for again: 502 of a proxy, and streams that ended before their end
    killed: bool = False

    def run(self, url: str) -> None:
        asyncio.run(self._run(url))

    async def _run(self, url: str) -> None:
        async with (
            httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, verify=NO_AUTHORITIES) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(AT_ONCE):
                tasks.create_task(self._client(http))

    async def _client(self, http: httpx.AsyncClient) -> None:
        for number in range(EACH):
            ask = self._stream if number % 2 else self._whole
            while not await ask(http):
                self.again += 1
                await asyncio.sleep(0.25)  # as the official clients do

    async def _whole(self, http: httpx.AsyncClient) -> bool:
        """Whether there was an answer."""
        answer = await http.post("/v1/chat/completions", json=BODY)
        if answer.status_code == httpx.codes.BAD_GATEWAY:
            return False
        assert answer.status_code == httpx.codes.OK, answer.text
        self.texts.add(answer.json()["choices"][0]["message"]["content"])
        self.answered.append(answer.headers["x-berth-replica"])
        return True

    async def _stream(self, http: httpx.AsyncClient) -> bool:
        """Whether it came to its end."""
        pieces, finish = [], ""
        try:
            async with http.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as answer:
                if answer.status_code == httpx.codes.BAD_GATEWAY:
                    return False
                assert answer.status_code == httpx.codes.OK, await answer.aread()
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    (choice,) = json.loads(line[6:])["choices"]
                    pieces.append(choice["delta"].get("content") or "")
                    finish = choice["finish_reason"] or finish
                    if len(pieces) > TOKENS / 4 and answer.headers["x-berth-replica"] in self.doomed:
                        await self._kill()
        except httpx.RemoteProtocolError:
            return False
        if finish != "length":
            return False
        self.texts.add("".join(pieces))
        self.answered.append(answer.headers["x-berth-replica"])
        return True

    async def _kill(self) -> None:
        if not self.killed:
            self.killed = True
            for process in await asyncio.to_thread(self.victim.processes):
                kill(process)


def test_a_box_that_is_killed_loses_no_request_and_no_stream(peers: tuple[Appliance, Appliance]) -> None:
    """Clients of the other box: what it had sent to its peer is sent again, and a stream of the peer's is continued."""
    one, two = peers
    expected = one.chat("m", max_tokens=TOKENS).json()["choices"][0]["message"]["content"]
    spent = {"x-berth-hops": str(MOST_HOPS)}
    assert one.http.post("/v1/chat/completions", json=BODY, headers=spent).headers["x-berth-replica"] == "m-sim"
    load = Load(victim=two, doomed=frozenset({"m-attached"}))
    load.run(one.url)
    assert load.killed, f"the peer got nothing: {load.answered}"
    assert load.again == 0
    assert load.texts == {expected}
    assert len(load.answered) == AT_ONCE * EACH
    assert {"m-sim", "m-attached"} == set(load.answered)


@contextmanager
def caddy(folder: Path, port: int, *boxes: Appliance) -> Iterator[str]:
    """Caddy with the worked example of the documentation, for these boxes. Its URL."""
    example = re.search(r"```\n(chat\.example\.org .*?)```", (ROOT / "docs/nodes.md").read_text(), re.DOTALL)
    assert example is not None
    addresses = " ".join(f"127.0.0.1:{box.environ['BERTH_PORT']}" for box in boxes)
    text = example[1].replace("chat.example.org", f"http://127.0.0.1:{port}")
    text = text.replace("10.0.0.1:8000 10.0.0.2:8000", addresses)
    file = folder / "Caddyfile"
    file.write_text(f"{{\n\tadmin off\n}}\n\n{text}")
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [CADDY or "", "run", "--adapter", "caddyfile", "--config", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: is_open(port), 60, (folder / "log").read_text)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@needs_caddy
def test_behind_caddy_clients_that_ask_again_lose_nothing(peers: tuple[Appliance, Appliance], tmp_path: Path) -> None:
    """The worked example, with clients that ask again after a 502 and after a broken stream. Caddy sends no body twice,
    and older ones not even to another box than that which refused the connection.
    """
    one, two = peers
    expected = one.chat("m", max_tokens=TOKENS).json()["choices"][0]["message"]["content"]
    with caddy(tmp_path, free_port(), one, two) as url:
        load = Load(victim=two, doomed=frozenset({"m-sim", "m-attached"}))
        load.run(url)
    assert load.killed
    assert load.texts == {expected}
    assert len(load.answered) == AT_ONCE * EACH
