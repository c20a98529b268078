"""What keys change."""

import pytest

from berth.top.view import SORTS, View

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("keys", "view"),
    [
        ("q", View(quit=True)),
        ("p", View(paused=True)),
        ("pp", View()),
        ("r", View(page="requests")),
        ("rr", View()),
        ("rl", View(page="log")),
        ("?", View(page="help")),
        ("?h", View()),
        ("s", View(sort="tokens")),
        ("sss", View(sort=SORTS[0])),
        ("x", View()),
        ("", View()),
    ],
)
def test_keys(keys: str, view: View) -> None:
    seen = View()
    for key in keys:
        seen = seen.pressed(key, NAMES)
    assert seen == view


@pytest.mark.parametrize(
    ("selected", "key", "expected"),
    [
        ("", "down", "b"),
        ("a", "down", "b"),
        ("c", "down", "c"),
        ("b", "up", "a"),
        ("a", "up", "a"),
        ("gone", "up", "a"),
    ],
)
def test_arrows_select_a_replica(selected: str, key: str, expected: str) -> None:
    assert View(selected=selected).pressed(key, NAMES).selected == expected
    assert View(selected=selected).pressed(key, []).selected == selected
