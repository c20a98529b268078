import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.tgi.tokenize import locate_tokens


def spans(text: str, names: list[str]) -> list[tuple[str, int, int]]:
    return [(one["text"], one["start"], one["stop"]) for one in locate_tokens(text, [*range(len(names))], names)]


def test_locates_byte_level_tokens() -> None:
    assert spans("Hello é", ["Hell", "o", "Ġ", "Ã", "©"]) == [
        ("Hell", 0, 4),
        ("o", 4, 5),
        (" ", 5, 6),
        ("Ã", 6, 6),  # half a character
        ("é", 6, 7),
    ]


def test_locates_sentencepiece_tokens() -> None:
    assert spans("Hi 🦊", ["<s>", "▁Hi", "▁", "<0xF0>", "<0x9F>", "<0xA6>", "<0x8A>"]) == [
        ("<s>", 0, 0),
        ("Hi", 0, 2),
        (" ", 2, 3),
        *((f"<0x{byte}>", 3, 3) for byte in ("F0", "9F", "A6")),
        ("🦊", 3, 4),
    ]


@pytest.mark.parametrize("name", ["<|im_start|>", "[CLS]", ""])
def test_special_token_covers_no_characters(name: str) -> None:
    assert spans("x", [name, "x"]) == [(name, 0, 0), ("x", 0, 1)]


@given(st.text(max_size=9), st.lists(st.text(max_size=4), max_size=6))
def test_token_ranges_never_go_back(text: str, names: list[str]) -> None:
    ends = [0, *(end for _, start, stop in spans(text, names) for end in (start, stop))]

    assert ends == sorted(ends)
    assert ends[-1] <= len(text)
