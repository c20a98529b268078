"""The tiny model's tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etc.tools.tiny_model.texts import CALL_PIECES, PARAGRAPH, PROMPTS, SPECIAL, VISIBLE
from etc.tools.tiny_model.tokenizer import build_tokenizer, encode, token_id

TOKENIZER = build_tokenizer()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(encode(TOKENIZER, text), skip_special_tokens=False) == text


def test_a_word_of_the_script_is_one_token() -> None:
    assert len(encode(TOKENIZER, " lantern")) > 1
    assert len(encode(TOKENIZER, " lanterns")) == 1


@pytest.mark.parametrize("text", [" café", " 🦊"])
def test_some_characters_are_split_into_bytes(text: str) -> None:
    assert len(encode(TOKENIZER, text)) >= 3
    assert text in PARAGRAPH


def test_marks_and_pieces_of_calls_are_one_token_each() -> None:
    for text in (*SPECIAL, *VISIBLE, *CALL_PIECES):
        assert encode(TOKENIZER, text) == [token_id(TOKENIZER, text)]


def test_marks_that_parsers_look_for_stay_in_the_text() -> None:
    tokens = [token_id(TOKENIZER, "<tool_call>"), token_id(TOKENIZER, SPECIAL[0])]
    assert TOKENIZER.decode(tokens) == "<tool_call>"


def test_two_trainings_give_one_tokenizer() -> None:
    assert build_tokenizer().to_str() == TOKENIZER.to_str()


def test_what_is_not_one_token_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        token_id(TOKENIZER, PROMPTS[0])
