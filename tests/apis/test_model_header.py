import pytest

from berth.apis.model_header import model_name
from berth.canonical import Json


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"model": "own"}, "own"),
        ({"model": None}, "header"),
        ({"model": ""}, "header"),
        ({}, "header"),
        ({"model": 7}, ""),
    ],
)
def test_the_body_counts_before_the_header(document: Json, name: str) -> None:
    assert model_name(document, {b"x-berth-model": b"header"}) == name


def test_nobody_need_say_one() -> None:
    assert model_name({}, {}) == ""
