import pytest

from berth.apis.tool_arguments import ObjectEnd, arguments_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        (' {"a":  1.50e0}\n', '{"a":  1.50e0}'),
        ('{"a": "\\ud99c"}', '{"a": "\\ud99c"}'),
        ('{"a": "\ud99c"}', '{"a": "\\ud99c"}'),
        ('{"a": 1e400, "b": NaN, "c": "NaN"}', '{"a": 1e400, "b": null, "c": "NaN"}'),
        (None, "{}"),
        ("", "{}"),
        (" \n", "{}"),
        ("null", "{}"),
        ("[1]", None),
        ("true", None),
        ('{"city": "Par', None),
        ("{'a': 1}", None),
    ],
)
def test_text_of_an_object_is_kept(text: str | None, expected: str | None) -> None:
    assert arguments_text(text) == expected


@pytest.mark.parametrize("text", ['{"a":{"b":[1,{}]}}', '{"}":"\\"}{"}', '{"a\\\\":"]"}', "{}"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_finds_the_end_of_an_object_in_pieces(text: str, size: int) -> None:
    end, pieces, reached = ObjectEnd(), [], []
    for begin in range(0, len(text), size):
        pieces += ["", text[begin : begin + size]]
        reached.append(end.reached(pieces))

    assert reached == [False] * (len(reached) - 1) + [True]
