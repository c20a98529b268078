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
def test_body_wins_over_header(document: Json, name: str) -> None:
    assert model_name(document, {b"x-berth-model": b"header"}) == name


def test_name_is_empty_without_body_and_header() -> None:
    assert model_name({}, {}) == ""
