"""JSON of odd spelling is read, kept and written as other readers would."""

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from berth import json_text

NUMBERS = (
    *("0", "-0.0", "1.0", "1.50", "1e2", "1E+2", "-1.0e-5", "0.00001", "0.1000000000000000055", "1e22"),
    *("12345678901234567890", "-12345678901234567890123", "123456789012345678901234567890", "9" * 5000),
)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_keep_their_digits(number: str) -> None:
    body = f'{{"a":[{number}],"b":{{"c":{number}}}}}'.encode()
    try:
        document = json_text.read(body)
    except ValueError:
        document = json_text.read_odd(body)

    assert json_text.dumps(document) == body


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_clients_constants_keep_their_spelling(constant: str) -> None:
    body = f'{{"a":[{constant}]}}'.encode()

    assert json_text.dumps(json_text.read_odd(body)) == body


def test_engines_constants_become_null() -> None:
    body = b'{"a": NaN,\n"b": ["-Infinity", -Infinity], "c": 1e400, "d": "\\ud99c"}'

    assert json_text.for_all_readers(body) == b'{"a": null, "b": ["-Infinity", null], "c": 1e400, "d": "\\ud99c"}'
    assert json_text.dumps(json_text.loads(body)) == b'{"a":null,"b":["-Infinity",null],"c":1e400,"d":"\\ud99c"}'


@pytest.mark.parametrize("text", ["", "{", "{]", "nothing", '{"a":01}', '{"a"', '"\t"', "'a'", "{a:1}", "[1,]"])
def test_what_is_no_json_for_anyone_is_rejected(text: str) -> None:
    assert json_text.embeddable(text) is None
    with pytest.raises(orjson.JSONDecodeError):
        json_text.loads(text)
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        json_text.read_odd(text.encode())


def test_many_surrogates_and_large_odd_documents_are_rejected() -> None:
    with pytest.raises(ValueError, match="too much odd JSON"):
        json_text.read_odd(b'"' + b"\\ud83d" * 30_000 + b'"')
    large = b'["' + b"x" * json_text.MOST_ODD_BYTES + b'\\ud83d"]'
    with pytest.raises(ValueError, match="too much odd JSON"):
        json_text.read_odd(large)
    with pytest.raises(orjson.JSONDecodeError):
        json_text.loads(large)
    assert json_text.embeddable(large.decode()) is None
    with pytest.raises(ValueError, match="malformed"):
        json_text.read_odd(b'["' + b"x" * json_text.MOST_INFINITE_BYTES + b'",NaN]')


def test_what_is_no_json_is_not_written() -> None:
    with pytest.raises(TypeError):
        json_text.dumps({"a": {1, 2}})
    with pytest.raises(TypeError):
        json_text.dumps(["\ud800", object()])


def test_writes_what_orjson_does_not() -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]

    assert json_text.dumps(deep) == b"[" * 301 + b"]" * 301
    assert json_text.dumps({"\ud800": [10**30, True, None, {}, (1.5, orjson.Fragment("2.0"))]}) == (
        b'{"\\ud800":[1000000000000000000000000000000,true,null,{},[1.5,2.0]]}'
    )


ODD_TEXT = st.text(max_size=6) | st.text(st.characters(categories=["Cs"]), max_size=3)
SPELLED_TEXT = ODD_TEXT.map(json.dumps) | st.text(st.characters(codec="utf-8"), max_size=6).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)
SPACES = st.sampled_from(["", " ", "\n", "\t "])


def _listed(items: list[str], space: str) -> str:
    return "[" + space + ("," + space).join(items) + "]"


def _object(items: list[tuple[str, str]], space: str) -> str:
    return "{" + space + ",".join(f"{name}{space}:{value}" for name, value in items) + space + "}"


VALUES = st.recursive(
    SPELLED_TEXT | st.sampled_from([*NUMBERS[:-1], "1e400", "true", "null"]),
    lambda inner: (
        st.builds(_listed, st.lists(inner, max_size=3), SPACES)
        | st.builds(_object, st.lists(st.tuples(SPELLED_TEXT, inner), max_size=3), SPACES)
    ),
    max_leaves=8,
)
OBJECTS = st.builds(_object, st.lists(st.tuples(SPELLED_TEXT, VALUES), max_size=3), SPACES)  # of any spelling


@given(OBJECTS)
def test_any_spelling_is_embedded_as_it_is(text: str) -> None:
    assert json_text.embeddable(text) == text


@given(OBJECTS)
@example(r'{"\ud800":"","\ud801":"","\ud800":"0"}')
def test_any_document_is_read_as_python_reads_it(text: str) -> None:
    """Of names that are equal without their lone surrogates the last counts."""
    try:
        document = json_text.read(text.encode())
    except ValueError:
        document = json_text.read_odd(text.encode())

    expected = json.loads(text, object_pairs_hook=lambda pairs: {_whole(name): item for name, item in pairs})
    assert _whole(json.loads(json_text.dumps(document))) == _whole(expected)


def _whole(value: Any) -> Any:
    """Each lone surrogate as U+FFFD."""
    match value:
        case str():
            return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {_whole(name): _whole(item) for name, item in value.items()}
    return value


# Places where orjson is called directly, and why: the number of calls in each module.
DIRECT = {
    "apis/openai/fields.py": 2,  # the message for invalid JSON, and the check of depth
    "dialects/answers.py": 2,  # the same as json_text does, without its call
    "dialects/embeddings.py": 3,  # numbers alone
    "dialects/engine_load.py": 1,  # figures of an engine, which no client gets
    "dialects/failures.py": 1,  # text for a message
    "dialects/tool_calls.py": 1,  # the same, and deeper than json_text reads
    "dialects/stream_decoder.py": 1,  # the same as json_text does, without its call
    "router/forwarding/output_schema.py": 2,  # the text and the schema of a validator, whose numbers are plain
    "router/events/hub.py": 1,  # Berth's own documents
    "router/telemetry/access_log.py": 2,  # Berth's own text
}


def test_translations_read_and_write_json_here_alone() -> None:
    root = Path(json_text.__file__).parent
    found = {}
    for folder in ("apis", "dialects", "router"):
        for path in (root / folder).rglob("*.py"):
            if calls := len(re.findall(r"\borjson\.(?:loads|dumps)\(", path.read_text(encoding="utf-8"))):
                found[str(path.relative_to(root))] = calls

    assert found == DIRECT
