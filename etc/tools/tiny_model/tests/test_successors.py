"""What follows what, in the scripted model's table."""

import pytest
from tokenizers import Tokenizer

from etc.tools.tiny_model import successors as module
from etc.tools.tiny_model.successors import successors
from etc.tools.tiny_model.texts import CALL_PIECES, CALL_START, PARAGRAPH, REASONING, TURN_END
from etc.tools.tiny_model.tokenizer import build_tokenizer, encode, token_id


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


def follow(tokenizer: Tokenizer, start: int, steps: int = 400) -> list[int]:
    table, token = successors(tokenizer), start
    said: list[int] = []
    while len(said) < steps and token != token_id(tokenizer, TURN_END):
        token = table[token]
        said.append(token)
    return said[:-1] if token == token_id(tokenizer, TURN_END) else said


def test_a_prompt_is_followed_by_the_paragraph(tokenizer: Tokenizer) -> None:
    (new_line,) = encode(tokenizer, "\n")
    assert tokenizer.decode(follow(tokenizer, new_line)) == PARAGRAPH


def test_thinking_is_followed_by_the_paragraph(tokenizer: Tokenizer) -> None:
    said = follow(tokenizer, token_id(tokenizer, "<think>"))
    end = said.index(token_id(tokenizer, "</think>"))
    assert tokenizer.decode(said[:end]) == REASONING
    assert tokenizer.decode(said[end + 1 :]) == PARAGRAPH


def test_offered_tools_are_followed_by_a_call(tokenizer: Tokenizer) -> None:
    said = follow(tokenizer, token_id(tokenizer, CALL_START))
    assert tokenizer.decode(said) == f"<tool_call>{''.join(CALL_PIECES)}</tool_call>"


def test_other_tokens_go_round_for_ever(tokenizer: Tokenizer) -> None:
    said = follow(tokenizer, token_id(tokenizer, "Ġare"), steps=2000)
    assert len(said) == 2000
    assert set(said).isdisjoint(encode(tokenizer, PARAGRAPH))


def test_a_text_that_says_a_word_twice_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REASONING", "Okay so user so first")
    with pytest.raises(ValueError, match=r"'Ġso' has two followers"):
        successors(tokenizer)
