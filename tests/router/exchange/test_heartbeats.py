import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

import pytest
from starlette.types import Message

from berth.apis.base import ApiFormat
from berth.apis.ollama.chat import OllamaChat
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.passthrough import OpenaiStream
from berth.canonical import InferenceRequest
from berth.router.exchange import heartbeats
from berth.router.exchange.heartbeats import Heartbeats
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.request import RequestContext
from tests.fakes.router import route

pytestmark = pytest.mark.anyio

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "FIRST_S", 0.02)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.04)


class Taken:
    def __await__(self) -> Generator[None, None, None]:
        raise AssertionError("not awaited")


Taken.__name__ = "PyEmptyAwaitable"  # Granian's class, of which only the name is known


class Full:
    def __init__(self, reads: asyncio.Event) -> None:
        self._reads = reads

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._reads.wait().__await__()


class Client:
    def __init__(self, *, reads: bool) -> None:
        self.got: list[bytes] = []
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    async def receive(self) -> Message:
        raise AssertionError("the request is there")

    def send(self, message: Message) -> Awaitable[None]:
        self.got.append(message["body"])
        return Taken() if self.reads.is_set() else Full(self.reads)

    def waits(self, api: ApiFormat) -> Heartbeats:
        request = api.parse(BODY)
        assert isinstance(request, InferenceRequest)
        ctx = RequestContext(api, "x", InflightRequests().begin(self.receive, self.send))
        ctx.accept(request, route("m", ["m-a"]))
        return Heartbeats(ctx)


async def test_heartbeats_come_within_and_not_between() -> None:
    client = Client(reads=True)
    waiting = client.waits(OpenaiChat())
    await asyncio.sleep(0.1)
    assert client.got == []

    async with waiting:
        await asyncio.sleep(0.15)
    came = len(client.got)
    await asyncio.sleep(0.1)

    assert set(client.got) == {b": waiting for an engine\n\n"}
    assert len(client.got) == came >= 2
    async with waiting:
        await asyncio.sleep(0.1)
    assert len(client.got) > came


async def test_heartbeats_are_in_the_clients_api() -> None:
    client = Client(reads=True)
    async with client.waits(OllamaChat()):
        await asyncio.sleep(0.05)

    assert b'"content":""' in client.got[0]


async def test_full_client_gets_no_more_and_is_drained_afterwards() -> None:
    client = Client(reads=False)
    waiting = client.waits(OpenaiChat())
    await waiting.__aenter__()
    await asyncio.sleep(0.15)
    leaving = asyncio.ensure_future(waiting.__aexit__(None))
    await asyncio.sleep(0.02)
    assert (len(client.got), leaving.done()) == (1, False)

    client.reads.set()

    await asyncio.wait_for(leaving, 5)


async def test_client_that_has_left_is_not_drained() -> None:
    client = Client(reads=False)

    async def wait() -> None:
        async with client.waits(OpenaiChat()):
            await asyncio.sleep(10)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0.1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert len(client.got) == 1


class MuteStream(OpenaiStream):
    def heartbeat(self, text: str) -> bytes:  # noqa: ARG002 - the interface asks
        return b""


class Mute(OpenaiChat):
    """An API whose clients ignore nothing."""

    def stream(self, request: InferenceRequest) -> MuteStream:  # noqa: ARG002 - the interface asks
        return MuteStream()


async def test_api_without_heartbeats_gets_none() -> None:
    client = Client(reads=True)
    async with client.waits(Mute()):
        await asyncio.sleep(0.1)

    assert client.got == []
