"""How long an engine takes under load: continuous batching, step by step. Pure: `Pacer` adds the clock.

A step computes one token for each request that decodes, and up to CHUNK_TOKENS of the prompts that wait, first come
first served. It takes `itl` and `itl_per_running` for each request that decodes, and the time of its share of the
prompts; the step that ends a prompt gives its first token. A request runs as soon as the KV cache has room for its
prompt and its whole answer, so that none is ever evicted. A prompt's blocks that the prefix cache has need no time.
"""

import hashlib
import math
import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

CHUNK_TOKENS = 2048  # of prompts in a step
BLOCK_TOKENS = 16  # of the prefix cache


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel:
    """What load does to an engine's times."""

    itl_s: float = 0.005
    itl_per_running_s: float = 0.0
    prefill_rate: float = 0.0  # tokens a second; 0: prompts need no time
    jitter: float = 0.0  # of a step's time, which has a log-normal distribution with the mean 1: its sigma
    seed: int = 0
    max_running: int = 256
    kv_tokens: int = 0  # 0: no limit
    prefix_cache: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """One request. `tokens` are those that it has got."""

    prompt: Sequence[int]
    tokens_due: int  # of its answer
    cached: int = 0  # tokens of the prompt that were in the prefix cache
    left: int = 0  # tokens of the prompt that are still to be computed
    tokens: int = 0

    @property
    def reserves(self) -> int:
        return len(self.prompt) + self.tokens_due


@dataclass(slots=True)
class PrefixCache:
    """Blocks of prompts by the hash of all up to them; the least recently used leave first."""

    blocks: int
    _known: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def cached(self, prompt: Sequence[int]) -> int:
        """Tokens at its beginning. The last one of a prompt is always computed."""
        count = 0
        for key in _keys(prompt):
            if key not in self._known:
                break
            self._known.move_to_end(key)
            count += BLOCK_TOKENS
        return min(count, max(0, len(prompt) - 1))

    def keep(self, prompt: Sequence[int]) -> None:
        for key in _keys(prompt):
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self.blocks:
            self._known.popitem(last=False)

    def clear(self) -> None:
        self._known.clear()


class Batch:
    """`begin` starts a step and says how long it takes; `end` ends it."""

    def __init__(self, model: LoadModel) -> None:
        self.model = model
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        self.cache = PrefixCache((model.kv_tokens or 1 << 20) // BLOCK_TOKENS)
        self._random = random.Random(model.seed)  # noqa: S311 - a simulation
        self._step: list[Running] = []  # those that get a token at the end of the step
        self._reserved = 0

    def add(self, prompt: Sequence[int], tokens: int) -> Running:
        added = Running(prompt=prompt, tokens_due=tokens)
        self.waiting.append(added)
        return added

    def remove(self, one: Running) -> None:
        """Its client has gone, or it has all its tokens."""
        if one in self.waiting:
            self.waiting.remove(one)
        elif one in self.running:
            self.running.remove(one)
            self._reserved -= one.reserves

    @property
    def held(self) -> int:
        """Tokens in the KV cache."""
        return sum(len(one.prompt) + one.tokens for one in self.running)

    def begin(self) -> float | None:
        """Seconds of the step that begins now; None: there is nothing to do."""
        self._admit()
        self._step = [one for one in self.running if not one.left]
        decoding, prompts, budget = len(self._step), 0, CHUNK_TOKENS if self.model.prefill_rate else math.inf
        for one in self.running:
            if one.left and budget:
                chunk = int(min(one.left, budget))
                one.left -= chunk
                budget -= chunk
                prompts += chunk
                if not one.left:
                    self._step.append(one)
        if not self.running:
            return None
        model = self.model
        took_s = (model.itl_s + decoding * model.itl_per_running_s) if decoding else 0.0
        took_s += prompts / model.prefill_rate if model.prefill_rate else 0.0
        if model.jitter:
            took_s *= self._random.lognormvariate(-(model.jitter**2) / 2, model.jitter)
        return took_s

    def end(self) -> list[Running]:
        """Those that have got a token. What has all of its tokens has left the batch."""
        for one in self._step:
            if not one.tokens and self.model.prefix_cache:
                self.cache.keep(one.prompt)
            one.tokens += 1
            if one.tokens >= one.tokens_due:
                self.remove(one)
        return self._step

    def _admit(self) -> None:
        limit = self.model.kv_tokens
        while self.waiting and len(self.running) < self.model.max_running:
            first = self.waiting[0]
            if limit and self.running and self._reserved + first.reserves > limit:
                return
            self.waiting.popleft()
            first.cached = self.cache.cached(first.prompt) if self.model.prefix_cache else 0
            first.left = len(first.prompt) - first.cached
            self.running.append(first)
            self._reserved += first.reserves


def _keys(prompt: Sequence[int]) -> Iterator[bytes]:
    digest = hashlib.blake2b(digest_size=8)
    for start in range(0, len(prompt) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        digest.update(array("q", prompt[start : start + BLOCK_TOKENS]).tobytes())
        yield digest.copy().digest()
