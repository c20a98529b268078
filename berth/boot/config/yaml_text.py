"""YAML as a tree of strings: every scalar stays as written, so that `12:30`, `on` or `1.10` keep their text. JSON is
YAML too. Only mappings, lists and scalars are supported; anchors, aliases, tags, several documents, duplicate keys,
deep nesting and large texts are rejected.

The tree is built from yaml.compose's nodes, not by yaml.BaseLoader: that one keeps the last of duplicate keys and the
text of `null`, and masking needs the nodes' positions anyway.
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
    """Not YAML, or YAML with unsupported parts; the message contains the position."""


def read(text: str) -> Tree:
    """The only document of the text; None for an empty one. Raises YamlError."""
    return _tree(_compose(text)) if text.strip() else None


def masked(text: str) -> str:
    """The text with *** for the values of secret keys; only *** if the text is not YAML."""
    try:
        root = _compose(text)
    except YamlError:
        return "***"
    spans = [(node.start_mark.index, node.end_mark.index) for node in _secret_nodes(root)]
    for start, end in sorted(spans, reverse=True):
        newline = "\n" if text[start:end].endswith("\n") else ""
        text = text[:start] + "***" + newline + text[end:]
    return text


def secret_values(text: str) -> list[str]:
    """The values of secret keys. Of a text that is not YAML all words: any of them may be one."""
    try:
        values = [str(node.value) for node in _secret_nodes(_compose(text))]
    except YamlError:
        return list(words(text))
    return [*values, *(value.partition("=")[2] for value in values if value.startswith("--"))]


def _compose(text: str) -> yaml.Node | None:
    if len(text) > LARGEST_TEXT:
        raise YamlError(f"longer than {LARGEST_TEXT} characters")
    try:
        _reject_unsupported(text)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        raise YamlError(_located(exc.problem_mark, f"not YAML: {exc.problem or exc.context}")) from exc
    except yaml.reader.ReaderError as exc:
        raise YamlError(f"a character that YAML does not allow at position {exc.position}") from exc
    except (ValueError, yaml.YAMLError) as exc:
        raise exc if isinstance(exc, YamlError) else YamlError("not YAML") from exc
    return node


def _reject_unsupported(text: str) -> None:
    """Checks the events one by one, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise YamlError(_located(event.start_mark, f"nested deeper than {DEEPEST} levels"))
        if getattr(event, "anchor", None):
            raise YamlError(_located(event.start_mark, "anchors and aliases (& and *) are not supported"))
        if getattr(event, "tag", None):
            raise YamlError(_located(event.start_mark, "tags (!) are not supported"))


def _located(mark: Any, message: str) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: {message}" if mark else message


def _tree(node: yaml.Node | None) -> Tree:
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else _text(node)
    if node is None:
        return None
    tree: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(_located(key_node.start_mark, "a key must be a string; put it in quotes"))
        key = _text(key_node)
        if key in tree:
            raise YamlError(_located(key_node.start_mark, f"duplicate key {key!r}"))
        tree[key] = _tree(value_node)
    return tree


def _text(node: yaml.Node) -> str:
    """The scalar as written. JSON escapes a character beyond U+FFFF as a pair of surrogates, which are joined."""
    try:
        text = str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as exc:
        raise YamlError(_located(node.start_mark, "an unpaired surrogate")) from exc
    if "\x00" in text:
        raise YamlError(_located(node.start_mark, "a NUL character"))
    return text


def _secret_nodes(node: yaml.Node | None, *, secret: bool = False) -> list[yaml.ScalarNode]:
    """Where secrets are in the text: values of secret keys and options, and every value of an engine's `env`."""
    if isinstance(node, yaml.ScalarNode):
        option, equals, _ = node.value.partition("=")
        return [node] if secret or (equals and SECRET_OPTION.search(option)) else []
    found = []
    if isinstance(node, yaml.SequenceNode):
        for previous, item in pairwise([None, *node.value]):
            found += _secret_nodes(item, secret=secret or _is_secret(SECRET_OPTION, previous))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "env" and isinstance(value, yaml.MappingNode):
                for _, variable in value.value:
                    found += _secret_nodes(variable, secret=True)
            else:
                found += _secret_nodes(value, secret=_is_secret(SECRET_NAME, key))
    return found


def _is_secret(pattern: re.Pattern[str], node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.ScalarNode) and pattern.search(node.value) is not None


T = TypeVar("T")


def mapping(problems: Problems, place: str, tree: Tree, *, known: Collection[str], example: str) -> dict[str, Tree]:
    """The known fields with a value. An empty one counts as not given, an unknown one is a problem."""
    allowed = "the fields " + ", ".join(known)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        problems.add(place, masked_tree(tree), "expected a mapping of fields", allowed=allowed, example=example)
        return {}
    for name in tree.keys() - set(known):
        reason = f"unknown field{did_you_mean(name.lower(), known)}"
        problems.add(f"{place}.{name}", "", reason, allowed=allowed, example=example)
    return {name: value for name, value in tree.items() if name in known and value is not None}


def scalar(problems: Problems, place: str, tree: Tree, rule: Rule[T]) -> T | None:
    if isinstance(tree, str):
        return problems.parse(place, tree, rule)
    problems.reject(place, masked_tree(tree), "expected a single value", rule)
    return None


def items(problems: Problems, place: str, tree: Tree, rule: Rule[T]) -> list[Tree]:
    """The items of a list, or of a text in which commas or white space separate them."""
    if isinstance(tree, list):
        return tree
    if isinstance(tree, str):
        return list(words(tree))
    problems.reject(place, masked_tree(tree), "expected a list", rule)
    return []


def scalars(problems: Problems, place: str, trees: list[Tree], rule: Rule[T]) -> tuple[T, ...]:
    """The valid items; each invalid one is a problem."""
    parsed = [scalar(problems, f"{place}[{index}]", tree, rule) for index, tree in enumerate(trees)]
    return tuple(value for value in parsed if value is not None)


def masked_tree(tree: Tree) -> str:
    """A value of the wrong kind for a message, without contents: they may be secret."""
    if isinstance(tree, dict):
        return "{...}"
    if isinstance(tree, list):
        return "[...]"
    return "" if tree is None else tree
