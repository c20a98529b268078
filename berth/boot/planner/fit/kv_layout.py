"""How an engine lays out the KV cache of a model: bytes that one request holds on each GPU, by its length. Pure.

vLLM and TensorRT-LLM have one pool of blocks. Layers of one kind and size form groups of equally many layers, all
groups share the pool, and a block holds one page of each layer of a group. A group takes for one request of L tokens:

    full and MLA         ceil(L / block)
    sliding window w     ceil(min(w - 1 + in flight, L) / block) + 1
    chunks of w          ceil(min(w + in flight, L) / block)
    recurrent            2 with prefix caching (Mamba 2: 3), plus the speculative tokens

`in flight` is twice the tokens of a batch on GPUs, where vLLM schedules the next batch before the last has ended. A
block has 16 tokens, on the CPU 128. With recurrent layers it is as long as it must be for a page of attention to hold a
state, and smaller pages get longer blocks (vLLM 0.33: v1/kv_cache_interface.py, v1/core/kv_cache_utils.py,
platforms/interface.py).

SGLang has a pool per kind: sliding layers get a share of the tokens of the full ones, and recurrent layers a share of
the memory.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from berth.boot.checkpoints.cache_layers import CacheLayer, LayerKind

BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
LATENT_ALIGNMENT = 128  # tokens; MLA's kernels need it where blocks are longer
EQUAL_GROUPS = 1.5  # kinds whose numbers of layers differ by less share groups of the larger size
SGLANG_SLIDING_SHARE = 0.8  # --swa-full-tokens-ratio
SGLANG_RECURRENT_SHARE = 0.9 / 1.9  # --mamba-full-memory-ratio r: r / (1 + r) of the memory


class KvLayout(Protocol):
    """The cache of one engine on each of its GPUs."""

    def request_bytes(self, tokens: int) -> int:
        """What one request of this length holds. Grows with the length."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """The part that grows with each token, however long the request is."""
        ...

    def fixed_bytes(self, tokens: int) -> int:
        """The other part of such a request: windows and states."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers of one kind and size that share a block."""

    kind: LayerKind
    window: int
    block_tokens: int
    states: int = 0  # of a recurrent group: blocks per request

    def blocks(self, tokens: int, in_flight: int) -> int:
        match self.kind:
            case LayerKind.FULL:
                return -(-tokens // self.block_tokens)
            case LayerKind.SLIDING:
                return -(-min(self.window - 1 + in_flight, tokens) // self.block_tokens) + 1
            case LayerKind.CHUNKED:
                return -(-min(self.window + in_flight, tokens) // self.block_tokens)
            case LayerKind.RECURRENT:
                return self.states


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayout:
    """vLLM's and TensorRT-LLM's."""

    groups: tuple[Group, ...]
    block_bytes: int
    in_flight: int

    def request_bytes(self, tokens: int) -> int:
        return self.block_bytes * sum(group.blocks(tokens, self.in_flight) for group in self.groups)

    @property
    def bytes_per_token(self) -> int:
        growing = (group.block_tokens for group in self.groups if group.kind is LayerKind.FULL)
        return math.ceil(sum(self.block_bytes / tokens for tokens in growing))

    def fixed_bytes(self, tokens: int) -> int:
        others = (group for group in self.groups if group.kind is not LayerKind.FULL)
        return self.block_bytes * sum(group.blocks(tokens, self.in_flight) for group in others)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLayout:
    """SGLang's."""

    full_bytes: int  # per token
    sliding_bytes: int
    recurrent: bool

    def request_bytes(self, tokens: int) -> int:
        return tokens * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        share = 1 - SGLANG_RECURRENT_SHARE if self.recurrent else 1.0
        return math.ceil((self.full_bytes + SGLANG_SLIDING_SHARE * self.sliding_bytes) / share)

    def fixed_bytes(self, tokens: int) -> int:  # noqa: ARG002 - part of the interface
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformLayout:
    """Every token takes the same: for models whose layers are unknown."""

    bytes_per_token: int

    def request_bytes(self, tokens: int) -> int:
        return tokens * self.bytes_per_token

    def fixed_bytes(self, tokens: int) -> int:  # noqa: ARG002 - part of the interface
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayout:
    """A layout whose figures differ by a factor from what the engine made of them."""

    layout: KvLayout
    factor: float

    def request_bytes(self, tokens: int) -> int:
        return math.ceil(self.layout.request_bytes(tokens) * self.factor)

    @property
    def bytes_per_token(self) -> int:
        return math.ceil(self.layout.bytes_per_token * self.factor)

    def fixed_bytes(self, tokens: int) -> int:
        return math.ceil(self.layout.fixed_bytes(tokens) * self.factor)


def pool_layout(layers: Iterable[CacheLayer], *, gpus: int, element_bytes: float, scale_bytes: int = 0) -> PoolLayout:
    rows = [
        (one.kind, one.row_bytes(gpus=gpus, element_bytes=element_bytes, scale_bytes=scale_bytes)) for one in layers
    ]
    sliding = sum(row for kind, row in rows if kind in (LayerKind.SLIDING, LayerKind.CHUNKED))
    full = sum(row for kind, row in rows if kind is LayerKind.FULL)
    recurrent = any(kind is LayerKind.RECURRENT for kind, _row in rows)
    return PoolLayout(full_bytes=full, sliding_bytes=sliding, recurrent=recurrent)


def paged_layout(
    layers: Sequence[CacheLayer],
    *,
    gpus: int,
    element_bytes: float,
    scale_bytes: int = 0,
    weight_bytes: float = 2.0,
    in_flight: int,
    draft_tokens: int = 0,
) -> KvLayout:
    """`element_bytes` and `weight_bytes`: per element of the cache and of the weights. `in_flight`: tokens that may be
    scheduled but not yet settled. `draft_tokens`: predicted at once.
    """
    rows: Counter[_Row] = Counter()
    for one, alike in Counter(layers).items():
        if one.kind is LayerKind.RECURRENT:
            state_bytes = one.state_bytes(gpus=gpus, weight_bytes=weight_bytes, draft_tokens=draft_tokens)
            rows[_Row(one.kind, state_bytes, 0, one.states + draft_tokens)] += alike
        else:
            row_bytes = one.row_bytes(gpus=gpus, element_bytes=element_bytes, scale_bytes=scale_bytes)
            rows[_Row(one.kind, row_bytes, one.window or 0, 0)] += alike
    block = _block_tokens(rows, gpus=gpus, latent=any(one.shared_dims for one in layers))
    if all(row.kind is LayerKind.FULL for row in rows):
        # Layers of one kind need no groups: a block has a page of every layer, whatever the sizes.
        page = block * sum(row.bytes * count for row, count in rows.items())
        group = Group(kind=LayerKind.FULL, window=0, block_tokens=block)
        return PagedLayout(groups=(group,), block_bytes=page, in_flight=in_flight)
    pages = {row: max(row.bytes * (1 if row.kind is LayerKind.RECURRENT else block), 1) for row in rows}
    attention = [size for row, size in pages.items() if row.kind is not LayerKind.RECURRENT]
    page = max(attention or pages.values())
    most, fewest = max(rows.values()), min(rows.values())
    layers_per_group = most if most < fewest * EQUAL_GROUPS else fewest
    groups: list[Group] = []
    for row, count in rows.items():
        own_block = block * max(page // pages[row], 1)
        group = Group(kind=row.kind, window=row.window, block_tokens=own_block, states=row.states)
        groups += [group] * -(-count // layers_per_group)
    return PagedLayout(groups=tuple(groups), block_bytes=page * layers_per_group, in_flight=in_flight)


@dataclass(frozen=True, slots=True)
class _Row:
    """Layers with equal rows are of one kind to the engine."""

    kind: LayerKind
    bytes: int  # per token, or of the state
    window: int
    states: int


def _block_tokens(rows: Iterable[_Row], *, gpus: int, latent: bool) -> int:
    """A page of the largest attention layer must hold the largest state."""
    found = list(rows)
    state = max((row.bytes for row in found if row.kind is LayerKind.RECURRENT), default=0)
    row_bytes = max((row.bytes for row in found if row.kind is not LayerKind.RECURRENT), default=0)
    least = BLOCK_TOKENS if gpus or latent else CPU_BLOCK_TOKENS
    if not state or not row_bytes:
        return least
    step = LATENT_ALIGNMENT if latent else least
    return step * max(-(-state // (step * row_bytes)), 1)


def longest(layout: KvLayout, kv_bytes: float, limit: int) -> int:
    """The tokens of the longest request, up to `limit`, that a cache of `kv_bytes` holds."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = layout.request_bytes(middle) <= kv_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
