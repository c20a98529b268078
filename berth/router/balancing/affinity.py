"""Session affinity: the same replica for all requests of a conversation, for the engine's prefix cache; pure.

Rendezvous hashing: each replica draws a number for the conversation, and the highest wins. When a replica is added or
removed, only its own conversations move.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

from berth import json_text
from berth.canonical import InferenceRequest, Operation
from berth.plan import Plan, Standby

# The first is for all clients, the others are sent by Claude Code and Codex.
HEADERS = (b"x-session-id", b"x-claude-code-session-id", b"session-id", b"session_id")
_TEXT_LENGTH = 1024  # characters of each message; the same beginning is enough for the cache to help
_PROMPT_LENGTH = 256  # characters, or tokens
_PERSON = b"berth-affinity"


def models(plan: Plan) -> frozenset[str]:
    """Those whose conversations stay with one of several replicas."""
    routes = [route for route in plan.routes if route.standby is Standby.HOT and len(route.replicas) > 1]
    return frozenset(route.name for route in routes if plan.affinity)


def session(headers: Mapping[bytes, bytes], request: InferenceRequest) -> bytes:
    """Identifies the conversation: by the client's header, otherwise by its beginning. b"": the request has none."""
    for name in HEADERS:
        if given := headers.get(name):
            return _digest(b"id:" + given)
    if request.operation not in {Operation.CHAT, Operation.COMPLETION}:
        return b""
    if request.operation is Operation.CHAT:
        texts = []
        for message in request.body["messages"]:  # up to the user's first one
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(text for part in content if isinstance(text := part.get("text"), str))
            texts.append(content[:_TEXT_LENGTH])
            if message["role"] == "user":
                break
        beginning = "\0".join(texts)
    else:
        prompt = request.body["prompt"]
        if isinstance(prompt, list) and not isinstance(prompt[0], int):
            prompt = prompt[0]
        start = prompt[:_PROMPT_LENGTH]
        beginning = start if isinstance(start, str) else json_text.dumps(start).decode()
    return _digest(beginning.encode("utf-8", "surrogatepass"))


def ranked(session: bytes, names: Sequence[str], shares: Sequence[float]) -> list[int]:
    """The indexes of the replicas, the one of the conversation first. A larger share wins more conversations."""
    draws = []
    for name, share in zip(names, shares, strict=True):
        digest = hashlib.blake2b(name.encode(), digest_size=6, key=session).digest()
        number = (int.from_bytes(digest, "big") + 1) / (2**48 + 2)  # between 0 and 1, and neither of them
        draws.append(share / -math.log(number))
    return sorted(range(len(draws)), key=draws.__getitem__, reverse=True)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16, person=_PERSON).digest()
