"""YAML as a tree of texts: every scalar is kept as it was written, so that `12:30`, `on` or `1.10` stay what they are.

Only what a configuration needs is read: mappings, lists and scalars. Anchors, aliases, tags, more than one document,
keys given twice, deep nesting and large texts are refused. JSON is YAML too.

Reads the fields of a tree of texts, and notes what is not right about them.
"""

import re
from collections.abc import Collection
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import yaml

from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.parsers import SECRET_NAME, SECRET_OPTION, did_you_mean, words

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree] | None"

LARGEST_TEXT = 2**20  # characters
DEEPEST = 12

_NULL = "tag:yaml.org,2002:null"


class YamlError(ValueError):
    """Not YAML, or YAML with something that is not read here; the message says where."""


def read(text: str) -> Tree:
    """The only document of the text; None for an empty one. Raises YamlError."""
    return _tree(_compose(text)) if text.strip() else None


def masked(text: str) -> str:
    """The text with *** for the values of keys that hold secrets; all of it where that cannot be told."""
    try:
        root = _compose(text)
    except YamlError:
        return "***"
    for start, end in sorted(_secret_spans(root), reverse=True):
        newline = "\n" if text[start:end].endswith("\n") else ""
        text = text[:start] + "***" + newline + text[end:]
    return text


def _compose(text: str) -> yaml.Node | None:
    if len(text) > LARGEST_TEXT:
        raise YamlError(f"longer than {LARGEST_TEXT} characters")
    try:
        _refuse_extras(text)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        raise YamlError(_located(exc.problem_mark, f"not YAML: {exc.problem or exc.context}")) from exc
    except yaml.reader.ReaderError as exc:
        raise YamlError(f"a character that YAML does not allow at position {exc.position}") from exc
    except (ValueError, yaml.YAMLError) as exc:
        raise exc if isinstance(exc, YamlError) else YamlError("not YAML") from exc
    return node


def _refuse_extras(text: str) -> None:
    """Looks at the events one by one, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise YamlError(_located(event.start_mark, f"nested deeper than {DEEPEST} levels"))
        if getattr(event, "anchor", None):
            raise YamlError(_located(event.start_mark, "anchors and aliases (& and *) are not read here"))
        if getattr(event, "tag", None):
            raise YamlError(_located(event.start_mark, "tags (!) are not read here"))


def _located(mark: Any, message: str) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: {message}" if mark else message


def _tree(node: yaml.Node | None) -> Tree:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag != _NULL:
        return _text(node)
    return None


def _mapping(node: yaml.MappingNode) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(_located(key_node.start_mark, "a key must be a text; put it in quotes"))
        key = _text(key_node)
        if key in tree:
            raise YamlError(_located(key_node.start_mark, f"{key!r} is there twice"))
        tree[key] = _tree(value_node)
    return tree


def _text(node: yaml.Node) -> str:
    """JSON writes a character beyond U+FFFF as two escapes, which belong together."""
    try:
        text = str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as exc:
        raise YamlError(_located(node.start_mark, "half a surrogate pair")) from exc
    if "\x00" in text:
        raise YamlError(_located(node.start_mark, "a NUL character"))
    return text


def _secret_spans(node: yaml.Node | None) -> list[tuple[int, int]]:
    if isinstance(node, yaml.SequenceNode):
        return [
            span
            for previous, item in pairwise([None, *node.value])
            for span in _spans(item, secret=_is_secret(SECRET_OPTION, previous))
        ]
    if isinstance(node, yaml.MappingNode):
        return [span for key, value in node.value for span in _field_spans(key, value)]
    return []


def _field_spans(key: yaml.Node, value: yaml.Node) -> list[tuple[int, int]]:
    """Of an engine's environment every value: who knows which of them are secret?"""
    if isinstance(key, yaml.ScalarNode) and key.value == "env" and isinstance(value, yaml.MappingNode):
        return [span for _, one in value.value for span in _spans(one, secret=True)]
    return _spans(value, secret=_is_secret(SECRET_NAME, key))


def _spans(node: yaml.Node, *, secret: bool) -> list[tuple[int, int]]:
    if isinstance(node, yaml.ScalarNode) and (secret or _sets_secret(node.value)):
        return [(node.start_mark.index, node.end_mark.index)]
    return _secret_spans(node)


def _sets_secret(argument: str) -> bool:
    option, equals, _ = argument.partition("=")
    return equals == "=" and SECRET_OPTION.search(option) is not None


def _is_secret(pattern: re.Pattern[str], node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.ScalarNode) and pattern.search(node.value) is not None


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
