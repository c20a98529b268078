import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.sim.options import MIN_VOCAB_SIZE, PARAGRAPH
from berth.sim.tokenizer import Tokenizer

LARGE = Tokenizer((PARAGRAPH,), 32000)
SMALL = Tokenizer((PARAGRAPH,), MIN_VOCAB_SIZE)


@given(text=st.text(max_size=80))
@pytest.mark.parametrize("tokenizer", [LARGE, SMALL], ids=["large", "small"])
def test_text_comes_back_as_it_went_in(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.texts(ids)) == text
    assert all(0 <= number < tokenizer.vocab_size for number in ids)


def test_the_engines_own_words_are_one_token_each() -> None:
    assert LARGE.texts(LARGE.encode(PARAGRAPH))[:4] == ["The", " night", " train", " left"]
    assert " 🦊" in LARGE.texts(LARGE.encode(PARAGRAPH))


def test_a_small_vocabulary_spells_and_keeps_characters_whole() -> None:
    assert SMALL.texts(SMALL.encode("é🦊a")) == ["", "é", "", "", "", "🦊", "a"]


def test_ids_are_the_same_in_every_process() -> None:
    assert Tokenizer((PARAGRAPH,), 32000).encode("hello world café") == LARGE.encode("hello world café")


def test_ids_without_a_word_and_halves_of_characters_are_harmless() -> None:
    assert LARGE.decode((0, 1, 2, 31999)) == ""
    assert LARGE.text(3 + 0xC3) == "�"


def test_it_forgets_nothing_and_remembers_a_bounded_number() -> None:
    tokenizer = Tokenizer((), 32000)
    texts = [f"text {number}" for number in range(600)]
    first = [tokenizer.encode(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == first
    assert len(tokenizer._cache) == 512
