from typing import Any

import pytest

from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, Json


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "missing"),
        (b"{", "json_invalid"),
        (b"NaN", "json_invalid"),
        (b'{"a": "\\ud800"}', "string_unicode"),
        (b"[" * 100_000, "json_invalid"),
        (b"[]", "model_attributes_type"),
        (b"null", "model_attributes_type"),
    ],
)
def test_rejects_bodies_that_are_not_objects(data: bytes, kind: str) -> None:
    with pytest.raises(InvalidError) as error:
        body_validation.parse_object(data)
    assert error.value.kind == kind


def test_accepts_what_pythons_reader_accepts() -> None:
    assert body_validation.parse_object(b'{"a": Infinity}') == {"a": float("inf")}


@pytest.mark.parametrize(
    ("body", "kind", "place"),
    [
        ({"temperature": "hot"}, "float_parsing", ("temperature",)),
        ({"max_tokens": "a lot"}, "int_parsing", ("max_tokens",)),
        ({"max_tokens": 1.5}, "int_type", ("max_tokens",)),
        ({"n": []}, "int_type", ("n",)),
        ({"stream": "yes"}, "bool_type", ("stream",)),
        ({"tools": {}}, "list_type", ("tools",)),
        ({"stream_options": []}, "dict_type", ("stream_options",)),
        ({"stop_token_ids": [1, "a"]}, "int_parsing", ("stop_token_ids", 1)),
    ],
)
def test_type_error_has_its_location(body: Json, kind: str, place: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError) as error:
        body_validation.check_types(body)
    assert (error.value.kind, error.value.place) == (kind, place)


def test_accepts_numbers_in_strings_integral_floats_and_nulls() -> None:
    body = {"temperature": "-0.5", "max_tokens": "12", "n": 2.0, "seed": None, "unknown": object(), "stop_token_ids": 3}
    body_validation.check_types(body)
    assert (body_validation.number(body, "temperature", 1), body_validation.integer(body, "max_tokens", 0)) == (
        -0.5,
        12,
    )
    assert (body_validation.number(body, "seed", 7), body_validation.integer(body, "seed", 7)) == (7, 7)


@pytest.mark.parametrize(
    ("value", "texts"), [("a", ("a",)), ("", ()), (["a", "", 1, "b"], ("a", "b")), (None, ()), (4, ())]
)
def test_parses_one_or_several_strings(value: Any, texts: tuple[str, ...]) -> None:
    assert body_validation.strings(value) == texts


@pytest.mark.parametrize(
    "body", [{}, {"messages": "x"}, {"messages": ["x"]}, {"messages": [{"role": 1}]}, {"messages": [{}]}]
)
def test_messages_are_a_list_of_objects_with_roles(body: Json) -> None:
    with pytest.raises(InvalidError):
        body_validation.messages(body)


@pytest.mark.parametrize(
    ("content", "text", "parts"),
    [
        ("Hi", "Hi", []),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, "odd"], "a", ["text", "image_url", "?"]),
        (None, "", []),
        (5, "", []),
    ],
)
def test_content_is_text_or_parts(content: Any, text: str, parts: list[str]) -> None:
    message = {"role": "user", "content": content}
    assert (body_validation.message_text(message), body_validation.part_types(message)) == (text, parts)


@pytest.mark.parametrize("tokens", ["x", ["x"], [True], None])
def test_token_ids_are_integers(tokens: Any) -> None:
    with pytest.raises(InvalidError):
        body_validation.token_ids(tokens)


def test_keys_of_logit_bias_are_token_ids() -> None:
    assert body_validation.logit_bias_ids({"logit_bias": {"5": 1, "-1": 2}}) == [5, -1]
    assert body_validation.logit_bias_ids({}) == []
    with pytest.raises(InvalidError):
        body_validation.logit_bias_ids({"logit_bias": {"x": 1}})
