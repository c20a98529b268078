"""YAML as a tree of texts: every scalar is kept as it was written, so that `12:30`, `on` or `1.10` stay what they are.

Only what a configuration needs is read: mappings, lists and scalars. Anchors, aliases, tags, more than one document,
keys given twice, deep nesting and large texts are refused. JSON is YAML too.
"""

import re
from itertools import pairwise
from typing import Any, TypeAlias

import yaml

from berth.boot.values import SECRET_NAME, SECRET_OPTION

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
