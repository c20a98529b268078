"""Fields of a tree: unknown ones, empty ones, and values of the wrong kind."""

import pytest

from berth.boot.config.model_rules import NAME, Problems
from berth.boot.config.yaml_text import Tree, items, mapping, scalar, scalars


def test_an_empty_field_counts_as_not_given_and_an_unknown_one_is_a_problem() -> None:
    problems = Problems()
    tree: Tree = {"source": "x", "gpus": None, "sorce": "s3cret"}
    assert mapping(problems, "m", tree, known=["source", "gpus"], example="source: x") == {"source": "x"}
    (problem,) = problems.found
    assert (problem.variable, problem.value) == ("BERTH_MODELS: m.sorce", "")
    assert problem.reason == "unknown field (did you mean source)"


@pytest.mark.parametrize(("tree", "value"), [("text", "text"), (["s3cret"], "[...]")])
def test_what_is_no_mapping_is_a_problem(tree: Tree, value: str) -> None:
    problems = Problems()
    assert mapping(problems, "m", tree, known=["source"], example="source: x") == {}
    assert [(problem.value, problem.reason) for problem in problems.found] == [(value, "not a mapping of fields")]


def test_nothing_is_an_empty_mapping() -> None:
    problems = Problems()
    assert mapping(problems, "m", None, known=["source"], example="source: x") == {}
    assert problems.found == []


@pytest.mark.parametrize(("tree", "value"), [(None, ""), ([], "[...]"), ({"a": "s3cret"}, "{...}")])
def test_one_value_is_neither_list_nor_mapping_nor_nothing(tree: Tree, value: str) -> None:
    problems = Problems()
    assert scalar(problems, "m.x", tree, NAME) is None
    assert [(problem.value, problem.reason) for problem in problems.found] == [(value, "one value belongs here")]


@pytest.mark.parametrize(("tree", "found"), [("a, b c", ["a", "b", "c"]), (["a b"], ["a b"]), ([], [])])
def test_a_list_may_be_one_text(tree: Tree, found: list[Tree]) -> None:
    assert items(Problems(), "m.x", tree, NAME) == found


def test_a_mapping_is_no_list() -> None:
    problems = Problems()
    assert items(problems, "m.x", {"a": "b"}, NAME) == []
    assert problems.found[0].reason == "a list belongs here"


def test_wrong_items_are_left_out_and_told_by_their_index() -> None:
    problems = Problems()
    assert scalars(problems, "m.x", ["a", "b c", ["d"], "e"], NAME) == ("a", "e")
    assert [problem.variable for problem in problems.found] == ["BERTH_MODELS: m.x[1]", "BERTH_MODELS: m.x[2]"]
