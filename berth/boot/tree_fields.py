"""Reads the fields of a tree of texts, and notes what is not right about them."""

from collections.abc import Collection
from typing import TypeVar

from berth.boot.model_rules import Problems, Rule
from berth.boot.values import did_you_mean, words
from berth.boot.yaml_tree import Tree

T = TypeVar("T")


def mapping(problems: Problems, place: str, tree: Tree, *, known: Collection[str], example: str) -> dict[str, Tree]:
    """The known fields that hold something. An empty one counts as not given, an unknown one is a problem."""
    allowed = "the fields " + ", ".join(known)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        problems.add(place, shown(tree), "not a mapping of fields", allowed=allowed, example=example)
        return {}
    for name in tree.keys() - set(known):
        reason = f"unknown field{did_you_mean(name.lower(), known)}"
        problems.add(f"{place}.{name}", "", reason, allowed=allowed, example=example)
    return {name: value for name, value in tree.items() if name in known and value is not None}


def scalar(problems: Problems, place: str, tree: Tree, rule: Rule[T]) -> T | None:
    if isinstance(tree, str):
        return problems.parse(place, tree, rule)
    problems.add(place, shown(tree), "one value belongs here", allowed=rule.allowed, example=rule.example)
    return None


def items(problems: Problems, place: str, tree: Tree, rule: Rule[T]) -> list[Tree]:
    """The items of a list; one text may hold several, separated by commas or white space."""
    if isinstance(tree, list):
        return tree
    if isinstance(tree, str):
        return list(words(tree))
    problems.add(place, shown(tree), "a list belongs here", allowed=rule.allowed, example=rule.example)
    return []


def scalars(problems: Problems, place: str, trees: list[Tree], rule: Rule[T]) -> tuple[T, ...]:
    """The items that are right; each that is not is a problem."""
    parsed = [scalar(problems, f"{place}[{index}]", tree, rule) for index, tree in enumerate(trees)]
    return tuple(value for value in parsed if value is not None)


def shown(tree: Tree) -> str:
    """What a message says about a value that is of the wrong kind: no contents, they may be secret."""
    if isinstance(tree, dict):
        return "{...}"
    if isinstance(tree, list):
        return "[...]"
    return "" if tree is None else tree
