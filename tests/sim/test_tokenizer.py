import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.sim.options import MIN_VOCAB_SIZE, PARAGRAPH
from berth.sim.tokenizer import Tokenizer

LARGE = Tokenizer((PARAGRAPH,), 32000)
SMALL = Tokenizer((PARAGRAPH,), MIN_VOCAB_SIZE)


@given(text=st.text(max_size=80))
@pytest.mark.parametrize("tokenizer", [LARGE, SMALL], ids=["large", "small"])
def test_decoding_restores_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.texts(ids)) == text
    assert all(0 <= number < tokenizer.vocab_size for number in ids)


def test_words_of_the_engines_text_are_single_tokens() -> None:
    assert LARGE.texts(LARGE.encode(PARAGRAPH))[:4] == ["The", " night", " train", " left"]
    assert " 🦊" in LARGE.texts(LARGE.encode(PARAGRAPH))


def test_small_vocabulary_keeps_characters_intact() -> None:
    assert SMALL.texts(SMALL.encode("é🦊a")) == ["", "é", "", "", "", "🦊", "a"]


def test_ids_are_the_same_in_every_process() -> None:
    assert Tokenizer((PARAGRAPH,), 32000).encode("hello world café") == LARGE.encode("hello world café")


def test_decodes_unknown_ids_and_partial_characters() -> None:
    assert LARGE.decode((0, 1, 2, 31999)) == ""
    assert LARGE.text(3 + 0xC3) == "�"


def test_cache_is_bounded() -> None:
    tokenizer = Tokenizer((), 32000)
    texts = [f"text {number}" for number in range(600)]
    first = [tokenizer.encode(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == first
    assert len(tokenizer._cache) == 512
