from typing import Any

import pytest

from berth.apis.usage import token_count, usage_of
from berth.canonical import Usage


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_unreported_usage_is_zero(usage: Any) -> None:
    assert usage_of(usage) == Usage()


def test_reported_usage() -> None:
    assert usage_of({"prompt_tokens": 3, "completion_tokens": 5}) == Usage(prompt_tokens=3, completion_tokens=5)


@pytest.mark.parametrize(
    ("counts", "expected"), [({"cached_tokens": 2}, 2), ({"cached_tokens": None}, 0), ({}, 0), (None, 0)]
)
def test_unreported_count_is_zero(counts: Any, expected: int) -> None:
    assert token_count(counts, "cached_tokens") == expected
