"""The tiny model's weights: a two-layer Llama, random or written by hand."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

HIDDEN = 256
LAYERS = 2
HEAD = 32
HEADS = HIDDEN // HEAD
KV_HEADS = HEADS // 2
SCALE = 60.0  # the logit of the right follower; all others stay far below
SAFE_MARGIN = 20.0  # between the right follower and any other, so that no temperature up to 1 changes the text


def random_weights(vocabulary: int, seed: int) -> dict[str, Array]:
    """Gibberish, but greedy decoding of it is deterministic."""
    generator = np.random.default_rng(seed)

    def noise(*shape: int, scale: float = 0.02) -> Array:
        return (generator.standard_normal(shape) * scale).astype(np.float32)

    weights = {"model.embed_tokens.weight": noise(vocabulary, HIDDEN)}
    for layer, (name, shape) in product(range(LAYERS), _LAYER_SHAPES.items()):
        is_norm = len(shape) == 1
        weights[f"model.layers.{layer}.{name}.weight"] = np.ones(shape, np.float32) if is_norm else noise(*shape)
    weights["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    weights["lm_head.weight"] = noise(vocabulary, HIDDEN, scale=0.5)
    return weights


_LAYER_SHAPES: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (HIDDEN, HIDDEN),
    "mlp.up_proj": (HIDDEN, HIDDEN),
    "mlp.down_proj": (HIDDEN, HIDDEN),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}


def scripted_weights(vocabulary: int, seed: int, followers: Sequence[int], closers: Sequence[int]) -> dict[str, Array]:
    """The same architecture, but the next token depends on the last one only, by the table of followers.

    The layers add nothing to the embedding (their output projections are zero), so the last layer reads off which token
    it was, and answers with its follower. `closers` are favoured as far as the margin allows: they end a grammar soon.
    """
    weights = random_weights(vocabulary, seed)
    for layer in range(LAYERS):
        weights[f"model.layers.{layer}.self_attn.o_proj.weight"][:] = 0
        weights[f"model.layers.{layer}.mlp.down_proj.weight"][:] = 0
    embeddings = _embeddings(weights["model.embed_tokens.weight"])
    head = _head(embeddings, followers)
    _favour(head, embeddings, followers, closers)
    if margin(embeddings, head, followers) < SAFE_MARGIN:
        raise ValueError("the tokens' embeddings are too alike: take another seed")
    return weights | {"model.embed_tokens.weight": embeddings, "lm_head.weight": head}


def _embeddings(noise: Array) -> Array:
    """Nearly orthogonal rows. Column 0 is 1 in each: a weight there is a constant bias."""
    directions = noise[:, 1:]
    lengths = np.linalg.norm(directions, axis=1, keepdims=True) / np.sqrt(HIDDEN - 1)
    return np.hstack([np.ones((len(noise), 1), np.float32), directions / lengths]).astype(np.float32)


def _head(embeddings: Array, followers: Sequence[int]) -> Array:
    head = np.zeros_like(embeddings)
    readers = embeddings * np.float32(SCALE / (HIDDEN - 1))
    readers[:, 0] = 0
    for token, follower in enumerate(followers):
        head[follower] += readers[token]
    head[len(followers) :, 0] = -SCALE  # the rows that fill up the table are no tokens
    return head


def _favour(head: Array, embeddings: Array, followers: Sequence[int], closers: Sequence[int]) -> None:
    right = np.array(followers)
    tokens = np.arange(len(right))
    logits = embeddings[: len(right)] @ head.T
    for closer in closers:
        others = tokens[right != closer]
        room = (logits[others, right[others]] - logits[others, closer]).min() - SAFE_MARGIN
        head[closer, 0] += np.clip(room, 0.0, SCALE / 3)


def margin(embeddings: Array, head: Array, followers: Sequence[int]) -> float:
    """By how much the right follower leads, in the worst case; negative if it does not."""
    right = np.array(followers)
    tokens = np.arange(len(right))
    logits = embeddings[: len(right)] @ head.T
    best = logits[tokens, right].copy()
    logits[tokens, right] = -np.inf
    return float((best - logits.max(axis=1)).min())
