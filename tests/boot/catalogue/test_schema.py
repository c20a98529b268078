import re
from typing import Any

import pytest

from berth.boot.catalogue.schema import Model, ParserNames, document


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 2}, "has version 2; this Berth reads 1"),
        ({"models": [{}]}, "missing required field `id` - at `$.models[0]`"),
        ({"models": [{"id": "a/b", "contxt": 5}]}, "unknown field `contxt`"),
        ({"models": [{"id": "a/b", "parsers": {"ollama": {}}}]}, "a/b names 'ollama', which is no engine"),
        ({"models": [{"id": "a/b", "sources": {"speed": "x"}}]}, "a/b has a source for 'speed', which is no fact"),
        ({"models": [{"id": "a/b", "variants": [{"id": "a/c", "precision": "fp7"}]}]}, "Invalid enum value 'fp7'"),
        ({"capabilities": {"fp8": {"least": "sm_89"}}}, "Expected `str` matching regex"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_what_is_no_fact_is_an_error(fields: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        document(fields)


def test_numbers_may_be_text_as_in_yaml() -> None:
    (model,) = document({"models": [{"id": "a/b", "context": "4096", "text_only": "true"}]}).models
    assert (model.context, model.text_only) == (4096, True)


@pytest.mark.parametrize(
    ("names", "right"),
    [
        ({}, ()),
        ({"tool": None}, (None,)),
        ({"tool": "hermes"}, ("hermes",)),
        ({"tool": ["hermes", None]}, ("hermes", None)),
    ],
)
def test_left_out_is_unknown_and_null_is_none(names: Any, right: tuple[str | None, ...]) -> None:
    (model,) = document({"models": [{"id": "a/b", "parsers": {"vllm": names}}]}).models
    assert model.parsers["vllm"].right("tool") == right
    assert model.parsers["vllm"].right("reasoning") == ()


def test_each_fact_has_the_source_of_the_model_or_its_own() -> None:
    model = Model(id="a/b", context=1, parsers={"vllm": ParserNames()}, source="x", sources={"context": "y"})
    assert {fact: model.source_of(fact) for fact in model.facts()} == {"context": "y", "parsers": "x"}
