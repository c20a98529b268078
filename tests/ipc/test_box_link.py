"""The messages between boxes: signed, and worth nothing a second time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from berth.ipc.box_link import Answer, LinkError, Order, Question, RankReport, answer_one, ask, opened, sealed
from berth.plan import Box, Node

pytestmark = pytest.mark.anyio
KEY = "k" * 32
QUESTION = Question(
    kind="beat", nonce="", boxes=("10.0.0.1",), box=Box(rank=1), ranks={"m": RankReport(generation=3, runs=True)}
)
ANSWER = Answer(box=Box(rank=0), orders={"m": Order(generation=4, ready=True)})


@asynccontextmanager
async def listening(
    reply: Callable[[Question], Answer] = lambda _question: ANSWER, key: str = KEY
) -> AsyncIterator[tuple[Node, list[str]]]:
    errors: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        errors.append(await answer_one(reader, writer, key, reply))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Node(address="127.0.0.1", port=server.sockets[0].getsockname()[1]), errors


async def test_a_question_and_its_answer_arrive() -> None:
    asked: list[Question] = []

    def reply(question: Question) -> Answer:
        asked.append(question)
        return ANSWER

    async with listening(reply) as (node, errors):
        assert await ask(node, QUESTION, KEY, source="127.0.0.1") == ANSWER
        second = await ask(node, QUESTION, KEY)
    assert second == ANSWER
    assert [replace(one, nonce="") for one in asked] == [QUESTION, QUESTION]
    assert len({one.nonce for one in asked}) == 2
    assert errors == ["", ""]


async def test_another_key_is_noticed_on_both_sides() -> None:
    async with listening(key="x" * 32) as (node, errors):
        with pytest.raises(LinkError, match="another BERTH_NODES_KEY"):
            await ask(node, QUESTION, KEY)
    assert errors == ["another BERTH_NODES_KEY: set the same on every box"]


async def test_an_error_of_the_other_box_is_raised() -> None:
    async with listening(lambda _question: Answer(error="BERTH_NODES differs")) as (node, _):
        with pytest.raises(LinkError, match="BERTH_NODES differs"):
            await ask(node, QUESTION, KEY)


async def test_a_recorded_question_is_refused() -> None:
    """On a new connection there is another nonce."""
    recorded = sealed(replace(QUESTION, nonce="00"), KEY, "question", "11" * 16)
    async with listening() as (node, errors):
        reader, writer = await asyncio.open_connection(node.address, node.port)
        await reader.readline()
        writer.write(recorded)
        answer = await reader.readline()
        writer.close()
    assert b"another BERTH_NODES_KEY" in answer
    assert errors == ["another BERTH_NODES_KEY: set the same on every box"]


def test_a_recorded_answer_is_refused() -> None:
    recorded = sealed(ANSWER, KEY, "answer", "challenge", "mine")
    assert opened(recorded, Answer, KEY, "answer", "challenge", "mine") == ANSWER
    for nonces in (("answer", "challenge", "other"), ("answer", "other", "mine"), ("question", "challenge", "mine")):
        with pytest.raises(LinkError):
            opened(recorded, Answer, KEY, *nonces)


@pytest.mark.parametrize(
    "line", [b"", b"{}\n", b"[]\n", b"null\n", b'{"body":1,"signature":2}\n', b'{"body":"","signature":"\xff"}\n']
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(LinkError):
        opened(line, Answer, KEY)


def test_a_signed_text_of_another_kind_is_refused() -> None:
    with pytest.raises(LinkError, match="not a message of Berth's"):
        opened(sealed(replace(ANSWER), KEY), Question, KEY)


async def test_a_box_that_is_not_there_is_an_error() -> None:
    async with listening() as (node, _):
        pass
    with pytest.raises(LinkError, match="no connection"):
        await ask(node, QUESTION, KEY)


async def test_a_box_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.ipc.box_link.LIMIT_S", 0.05)

    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        node = Node(address="127.0.0.1", port=server.sockets[0].getsockname()[1])
        with pytest.raises(LinkError, match=r"no answer within 0\.05 s"):
            await ask(node, QUESTION, KEY)
        await left.wait()


async def test_a_client_that_says_nothing_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.ipc.box_link.LIMIT_S", 0.05)
    async with listening() as (node, errors):
        reader, writer = await asyncio.open_connection(node.address, node.port)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert [error.startswith("broken connection") for error in errors] == [True]
