"""YAML: scalars stay as written, unsupported parts are rejected, secrets are masked, fields are checked."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.boot.config.model_rules import NAME, Problems
from berth.boot.config.yaml_text import LARGEST_TEXT, Tree, YamlError, items, mapping, masked, read, scalar, scalars


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a: 12:30", {"a": "12:30"}),
        ("on: off", {"on": "off"}),
        ("1.10: 010", {"1.10": "010"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a:\nb: ~\nc: null\nd: ''", {"a": None, "b": None, "c": None, "d": ""}),
        ("a: [1, x, {b: yes}]", {"a": ["1", "x", {"b": "yes"}]}),
        ('{"a": {"b": 1.5, "c": true}}', {"a": {"b": "1.5", "c": "true"}}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("~: x", {"~": "x"}),
        ("", None),
        ("# only a comment", None),
    ],
)
def test_scalars_stay_as_written(text: str, tree: Any) -> None:
    assert read(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1, column 6: not YAML: expected ',' or ']'"),
        ("a:\n  b: 1\n c: 2", "line 3, column 2: not YAML"),
        ("a: 'x", "line 1, column 6: not YAML"),
        ("a: &x 1", "line 1, column 4: anchors"),
        ("a: 1\nb: *x", "line 2, column 4: anchors"),
        ("a: !!python/object/apply:os.system [x]", "tags"),
        ("a: 1\na: 2", "line 2, column 1: duplicate key 'a'"),
        ("[a]: 1", "line 1, column 1: a key must be a string"),
        ("--- a\n--- b", "line 2, column 1: not YAML"),
        ("a: b\x01", "a character that YAML does not allow at position 4"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": "\\ud800"}', "surrogate"),
        ("[" * 10_000, "nested deeper"),
        ("{a: " * 13 + "}" * 13, "nested deeper"),
        ("a" * (LARGEST_TEXT + 1), "longer than"),
        ("a\tb: c", "not YAML"),
        ("%YAML 9.9\n---\na: 1", "not YAML"),
    ],
    ids=lambda value: value[:30],
)
def test_rejects_unsupported_yaml_with_its_position(text: str, message: str) -> None:
    with pytest.raises(YamlError) as caught:
        read(text)
    assert message in str(caught.value)


def test_rejects_alias_bomb_before_building_it() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(YamlError, match="anchors"):
        read(bomb)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{url: x, api_key: s3cret}", "{url: x, api_key: ***}"),
        ("env: {HF_TOKEN: 's3cret', A: b}", "env: {HF_TOKEN: ***, A: ***}"),
        ("api_key: |\n  s3cret\nb: 1", "api_key: ***\nb: 1"),
        ("? api_key\n: s3cret", "? api_key\n: ***"),
        ("a: [--hf-token, s3cret, --max-tokens, 5]", "a: [--hf-token, ***, --max-tokens, 5]"),
        ("a: [--hf-token=s3cret]", "a: [***]"),
        ("a: [--api-k=s3cret, --hf_to, s3cret]", "a: [***, --hf_to, ***]"),
        ("my-key: {source: x, password: s3cret}", "my-key: {source: x, password: ***}"),
        ("api_key: s3cret: broken", "***"),
        ("plain", "plain"),
    ],
)
def test_masks_secrets_in_place(text: str, shown: str) -> None:
    assert masked(text) == shown


@given(st.text(max_size=60) | st.text(alphabet="ab:{}[],&*!?-'\"|>%@ \n", max_size=40))
def test_any_text_is_read_or_rejected(text: str) -> None:
    masked(text)
    with contextlib.suppress(YamlError):
        read(text)


SCALARS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner), max_leaves=8))
def test_json_is_read_as_it_is(tree: Any) -> None:
    depth = json.dumps(tree).count("[") + json.dumps(tree).count("{")
    if depth <= 12:
        assert read(json.dumps([tree])) == [tree]


def test_mapping_drops_empty_fields_and_rejects_unknown_ones() -> None:
    problems = Problems()
    tree: Tree = {"source": "x", "gpus": None, "sorce": "s3cret"}
    assert mapping(problems, "m", tree, known=["source", "gpus"], example="source: x") == {"source": "x"}
    (problem,) = problems.found
    assert (problem.variable, problem.value) == ("BERTH_MODELS: m.sorce", "")
    assert problem.reason == "unknown field (did you mean source)"


@pytest.mark.parametrize(("tree", "value"), [("text", "text"), (["s3cret"], "[...]")])
def test_rejects_non_mapping(tree: Tree, value: str) -> None:
    problems = Problems()
    assert mapping(problems, "m", tree, known=["source"], example="source: x") == {}
    assert [(problem.value, problem.reason) for problem in problems.found] == [(value, "expected a mapping of fields")]


def test_null_is_an_empty_mapping() -> None:
    problems = Problems()
    assert mapping(problems, "m", None, known=["source"], example="source: x") == {}
    assert problems.found == []


@pytest.mark.parametrize(("tree", "value"), [(None, ""), ([], "[...]"), ({"a": "s3cret"}, "{...}")])
def test_rejects_non_scalar(tree: Tree, value: str) -> None:
    problems = Problems()
    assert scalar(problems, "m.x", tree, NAME) is None
    assert [(problem.value, problem.reason) for problem in problems.found] == [(value, "expected a single value")]


@pytest.mark.parametrize(("tree", "found"), [("a, b c", ["a", "b", "c"]), (["a b"], ["a b"]), ([], [])])
def test_list_may_be_one_string(tree: Tree, found: list[Tree]) -> None:
    assert items(Problems(), "m.x", tree, NAME) == found


def test_rejects_mapping_as_list() -> None:
    problems = Problems()
    assert items(problems, "m.x", {"a": "b"}, NAME) == []
    assert problems.found[0].reason == "expected a list"


def test_invalid_items_are_dropped_and_reported_by_index() -> None:
    problems = Problems()
    assert scalars(problems, "m.x", ["a", "b c", ["d"], "e"], NAME) == ("a", "e")
    assert [problem.variable for problem in problems.found] == ["BERTH_MODELS: m.x[1]", "BERTH_MODELS: m.x[2]"]
