"""The messages between the controls of several boxes: one question and one answer on a connection, both signed.

The key itself never leaves a box. Who is asked sends a nonce first, and the one who asks puts one of its own into the
question: so a recorded message is worth nothing later, in either direction. It is not encrypted: it has no secrets.
"""

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

import msgspec

from berth.plan import Box, Node

LONGEST: Final = 256 << 10  # bytes of a message: the facts of some hundred replicas
LIMIT_S: Final = 2.0  # for a whole exchange: later it is worth no more than none
_NONCE_BYTES: Final = 16

Message = TypeVar("Message", bound="Question | Answer")


class LinkError(Exception):
    """A box does not answer, or not as it should. The text is for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """What a box says of its rank of one replica."""

    generation: int = 0  # of its process; 0: none has run
    runs: bool = False
    status: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the head wants of the ranks of one replica."""

    generation: int = 0  # which is to run; 0: none
    ready: bool = False  # the head answers requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    kind: Literal["beat", "box"]  # box: only what the asked one is
    nonce: str
    boxes: tuple[str, ...]  # BERTH_NODES of the one who asks
    box: Box
    ranks: Mapping[str, RankReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    error: str = ""
    box: Box | None = None
    orders: Mapping[str, Order] = field(default_factory=dict)
    ranks: Mapping[str, RankReport] = field(default_factory=dict)  # of the one that answers


def signature(key: str, *parts: str) -> str:
    """The parts are hexadecimal or JSON, neither of which has a line break."""
    return hmac.new(key.encode(), "\n".join(parts).encode(), "sha256").hexdigest()


def sealed(message: Question | Answer, key: str, *nonces: str) -> bytes:
    body = msgspec.json.encode(message).decode()
    return json.dumps({"body": body, "signature": signature(key, *nonces, body)}).encode() + b"\n"


def opened(line: bytes, kind: type[Message], key: str, *nonces: str) -> Message:
    """LinkError for a message that was not signed with the key for these nonces."""
    try:
        fields = json.loads(line)
        body, given = fields["body"], fields["signature"]
        if not hmac.compare_digest(given.encode(), signature(key, *nonces, body).encode()):
            raise LinkError("another BERTH_NODES_KEY: set the same on every box")
        return msgspec.json.decode(body, type=kind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LinkError(f"not a message of Berth's: {error!r}") from error


async def ask(node: Node, question: Question, key: str, *, source: str = "") -> Answer:
    """LinkError for every failure. `source`: the address to ask from."""
    try:
        async with asyncio.timeout(LIMIT_S):
            local = (source, 0) if source else None
            reader, writer = await asyncio.open_connection(node.address, node.port, limit=LONGEST, local_addr=local)
            try:
                challenge = (await reader.readline()).decode().strip()
                own = secrets.token_hex(_NONCE_BYTES)
                writer.write(sealed(replace(question, nonce=own), key, "question", challenge))
                answer = opened(await reader.readline(), Answer, key, "answer", challenge, own)
            finally:
                writer.close()
    except TimeoutError:
        raise LinkError(f"no answer within {LIMIT_S:g} s") from None
    except (OSError, ValueError) as error:
        raise LinkError(f"no connection: {error}") from error
    if answer.error:
        raise LinkError(answer.error)
    return answer


async def answer_one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str, reply: Callable[[Question], Answer]
) -> str:
    """One connection of a listener. The error, "" where there was none."""
    error, challenge, theirs = "", secrets.token_hex(_NONCE_BYTES), ""
    try:
        async with asyncio.timeout(LIMIT_S):
            writer.write(f"{challenge}\n".encode())
            try:
                question = opened(await reader.readline(), Question, key, "question", challenge)
                theirs, answer = question.nonce, reply(question)
                error = answer.error
            except LinkError as problem:
                error = str(problem)
                answer = Answer(error=error)
            writer.write(sealed(answer, key, "answer", challenge, theirs))
            await writer.drain()
    except (TimeoutError, OSError, ValueError) as problem:
        error = error or f"broken connection: {problem!r}"
    finally:
        writer.close()
    return error
