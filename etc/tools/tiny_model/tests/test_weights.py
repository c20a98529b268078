"""The tiny model's weights."""

import numpy as np
import pytest

from etc.tools.tiny_model import weights as weights_module
from etc.tools.tiny_model.weights import HIDDEN, SAFE_MARGIN, margin, random_weights, scripted_weights

RING = [*range(1, 100), 0]  # 100 tokens, each followed by the next


def test_the_follower_leads_by_a_safe_margin() -> None:
    weights = scripted_weights(128, 7, RING, closers=[5, 6])
    assert margin(weights["model.embed_tokens.weight"], weights["lm_head.weight"], RING) >= SAFE_MARGIN


def test_rows_that_are_no_tokens_never_win() -> None:
    weights = scripted_weights(128, 7, RING, closers=[])
    logits = weights["model.embed_tokens.weight"] @ weights["lm_head.weight"].T
    assert (logits.argmax(axis=1) < 100).all()


def test_closers_come_second() -> None:
    plain, favoured = (scripted_weights(128, 7, RING, closers=closers) for closers in ([], [42]))
    logits = [weights["model.embed_tokens.weight"][:100] @ weights["lm_head.weight"].T for weights in (plain, favoured)]
    others = [token for token in range(100) if token != 41]
    assert (logits[1][others, 42] > logits[0][others, 42] + 10).all()
    assert (np.argsort(logits[1][others], axis=1)[:, -2] == 42).mean() > 0.9


def test_layers_add_nothing_to_the_embedding() -> None:
    weights = scripted_weights(128, 7, RING, closers=[])
    for layer in (0, 1):
        assert not weights[f"model.layers.{layer}.self_attn.o_proj.weight"].any()
        assert not weights[f"model.layers.{layer}.mlp.down_proj.weight"].any()


def test_embeddings_that_are_too_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SAFE_MARGIN", 59.0)
    with pytest.raises(ValueError, match="another seed"):
        scripted_weights(128, 7, RING, closers=[])


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, same, other = random_weights(64, 1), random_weights(64, 1), random_weights(64, 2)
    assert all((first[name] == same[name]).all() for name in first)
    assert (first["lm_head.weight"] != other["lm_head.weight"]).any()
    assert first["lm_head.weight"].shape == (64, HIDDEN)
