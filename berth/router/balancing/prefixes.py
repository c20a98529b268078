"""Which replicas of a model have the beginning of a prompt in their prefix caches, as far as this worker has sent it.

A prompt has one hash for each of its first 1, 2, 4, ... 64 KiB. The longest that is known says which replicas were sent
it; a conversation that is known says the one replica which got its last turn. So documents, tools and instructions that
many conversations begin with are kept by few replicas instead of all of them. The table of a model is bounded: what was
used longest ago is forgotten. What a replica was sent before it last became ready does not count.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from berth.canonical import InferenceRequest, Operation

FIRST: Final = 2**10  # bytes of the shortest beginning that is known
LAST: Final = 2**16
MOST: Final = 2**14  # entries of a model: at most about 4 MB

Holder = tuple[str, float]  # a replica, and since when it is ready


def beginnings(request: InferenceRequest) -> tuple[bytes, ...]:
    """The hashes of the beginnings of the prompt, the shortest first. Pure."""
    if request.operation is Operation.CHAT:
        texts, length = [], 0
        for message in request.body["messages"]:
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(text for part in content if isinstance(text := part.get("text"), str))
            texts.append(content[:LAST])
            length += len(content)
            if length >= LAST:
                break
        prompt = "\0".join(texts)
    elif request.operation is Operation.COMPLETION and isinstance(request.body["prompt"], str):
        prompt = request.body["prompt"][:LAST]
    else:
        return ()
    if len(prompt) * 4 < FIRST:
        return ()
    data = prompt.encode("utf-8", "surrogatepass")
    found: list[bytes] = []
    hashed, end = hashlib.blake2b(digest_size=16), FIRST
    while end <= min(len(data), LAST):
        hashed.update(data[end // 2 if found else 0 : end])
        found.append(hashed.digest())
        end *= 2
    return tuple(found)


class Prefixes:
    """Of one model."""

    def __init__(self) -> None:
        self._holders: OrderedDict[bytes, tuple[Holder, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def holders(self, session: bytes, beginnings: Sequence[bytes]) -> Collection[Holder]:
        """Those that have got the conversation, else the longest known beginning. (): no one, as far as is known."""
        known = self._holders
        if session in known:
            return known[session]
        return next((known[one] for one in reversed(beginnings) if one in known), ())

    def sent(self, session: bytes, beginnings: Sequence[bytes], holder: Holder) -> None:
        known = self._holders
        for one in beginnings:
            others = known.pop(one, ())
            known[one] = others if holder in others else (*others, holder)
        if session:
            known.pop(session, None)
            known[session] = (holder,)
        while len(known) > MOST:
            known.popitem(last=False)
