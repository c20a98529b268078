"""Which replica a conversation belongs to, so that the engine's prefix cache knows it; pure.

Rendezvous hashing: each replica draws a number for the conversation, and the highest wins. When a replica comes or
goes, only the conversations that it wins or had won move.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from berth.canonical import InferenceRequest, Operation

# The first is for everybody, the others are what Claude Code and Codex send.
HEADERS = (b"x-session-id", b"x-claude-code-session-id", b"session-id", b"session_id")
_TEXT_LENGTH = 1024  # characters of each message; with the same beginning the cache helps too
_PROMPT_LENGTH = 256  # characters, or tokens
_PERSON = b"berth-affinity"


def session(headers: Mapping[bytes, bytes], request: InferenceRequest) -> bytes:
    """What tells conversations apart: the client's own word, else how the conversation begins. b"": nothing does."""
    for name in HEADERS:
        if given := headers.get(name):
            return _digest(b"id:" + given)
    if request.operation not in {Operation.CHAT, Operation.COMPLETION}:
        return b""
    begins = _prompt(request.body) if request.operation is Operation.COMPLETION else _first_words(request.body)
    return _digest(begins.encode("utf-8", "surrogatepass"))


def ranked(session: bytes, names: Sequence[str], shares: Sequence[float]) -> list[int]:
    """The places of the replicas, the one that the conversation belongs to in front. A larger share wins more."""
    draws = [share / -math.log(_draw(session, name)) for name, share in zip(names, shares, strict=True)]
    return sorted(range(len(draws)), key=draws.__getitem__, reverse=True)


def _draw(session: bytes, name: str) -> float:
    """Between 0 and 1, neither of them."""
    digest = hashlib.blake2b(name.encode(), digest_size=6, key=session).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**48 + 2)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16, person=_PERSON).digest()


def _first_words(body: Mapping[str, Any]) -> str:
    """What comes up to the user's first message, and that."""
    words = []
    for message in body["messages"]:
        words.append(_text(message.get("content"))[:_TEXT_LENGTH])
        if message["role"] == "user":
            break
    return "\0".join(words)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(text for part in content if isinstance(text := part.get("text"), str))
    return content or ""


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body["prompt"]
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return prompt[:_PROMPT_LENGTH] if isinstance(prompt, str) else orjson.dumps(prompt[:_PROMPT_LENGTH]).decode()
