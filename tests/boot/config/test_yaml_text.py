"""Fields of a tree: unknown ones, empty ones, and values of the wrong kind."""

import pytest

from berth.boot.config.model_rules import NAME, Problems
from berth.boot.config.yaml_text import Tree, items, mapping, scalar, scalars


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
