"""What a check against a client's JSON schema costs at most, known before the check runs; pure.

`jsonschema_rs` runs in the event loop and holds the GIL, and no deadline stops it. 2 KB of nested `allOf` and `$ref`
are 2^32 steps, so a schema has two bounds:

1. `Outline(schema)` reads it and raises TooCostlyError where compiling it or one pass over a single value could take
   too long: too many subschemas, references or character classes, a chain of references without end, an expansion that
   doubles.
2. `Outline.steps(document, text, share)` counts what the check of one document takes at most, as if nothing ended
   early; None where that is more than MOST_STEPS. A schema without recursion is known by one multiplication; else the
   count follows the document level by level and stops at the bound.

One step is one keyword on one value, about 12 ns in `jsonschema_rs`; the other weights are measured in this unit.
What cannot be bounded is refused: `$dynamicRef`, `$recursiveRef`, references by anything but a JSON pointer, subschemas
with an `$id` of their own, and patterns outside a plain subset (inline flags, nested classes).
"""

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

MOST_STEPS: Final = 1_000_000
MOST_BYTES: Final = 1 << 18  # of a schema
_MOST_SUBSCHEMAS: Final = 2_800  # that have others, or keywords of which the cost depends on the value
_MOST_PLAIN: Final = 10_000  # others
_MOST_REFERENCES: Final = 1_250  # compiling one takes up to 12 us
_MOST_CLASSES: Final = 60  # of characters, in distinct patterns: compiling one takes up to 0.3 ms
_MOST_PATTERNS: Final = 100  # distinct ones: compiling one takes up to 0.3 ms
_MOST_PATTERN_TEXT: Final = 8_192  # characters
_MOST_UNEVALUATED: Final = 1_000  # subschemas that `unevaluated...` keywords look through when they are compiled
_MOST_PAIRS: Final = 20_000  # of a subschema and a value that the count itself looks at
_DEEPEST: Final = 2_000  # calls on the stack
_LONGEST_CHAIN: Final = 64  # of subschemas that apply to the same value
_LOOKED_THROUGH: Final = 4  # times `unevaluated...` goes through the subschemas next to it
_ONE_BY_ONE: Final = 16  # items of an array, more are compared by their hashes
_TEXT_PER_STEP: Final = 32  # characters

_LISTS_HERE: Final = ("allOf", "anyOf", "oneOf")
_SINGLE_HERE: Final = ("not", "if", "then", "else")
_MAPS_HERE: Final = ("dependentSchemas", "dependencies")
_OF_PROPERTIES: Final = ("additionalProperties", "unevaluatedProperties")
_OF_ITEMS: Final = ("items", "additionalItems", "contains", "unevaluatedItems")
_ELSEWHERE: Final = (
    "$defs",
    "definitions",
)  # compiled as far as the rules for schemas go, even where none refers to it
_REFUSED: Final = ("$dynamicRef", "$recursiveRef")
_REQUIRED_WITH: Final = ("dependentRequired", "dependencies")
_UNIONS: Final = frozenset({"anyOf", "oneOf"})

_REFERRING: Final = frozenset({"$ref", *_LISTS_HERE, *_SINGLE_HERE, *_MAPS_HERE})
_DIVIDING: Final = frozenset(
    {"properties", "patternProperties", "prefixItems", "propertyNames", "contentSchema"}
    | {*_OF_PROPERTIES, *_OF_ITEMS, *_ELSEWHERE}
)
_WEIGHED: Final = frozenset(
    {"enum", "const", "required", "properties", "patternProperties", "pattern", "format", "uniqueItems"}
    | {"unevaluatedProperties", "unevaluatedItems", "prefixItems", *_REQUIRED_WITH}
)
_PLAIN: Final = frozenset(
    {"type", "title", "description", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength"}
    | {"maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)

_PATTERN_TOKEN: Final = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.", re.DOTALL)
_OPAQUE_PATTERN: Final = re.compile(r"\(\?(?!:|<[A-Za-z_]|P<)|\[\^?\]|\[[^\]\\]*(?:\\.[^\]\\]*)*?\[")
_CLASS: Final = re.compile(r"\\[dDwWsSpPbB]")


class TooCostlyError(ValueError):
    """The schema is not checked; the message says why."""


@dataclass(slots=True, kw_only=True)
class _Subschema:
    """Indices are into Outline's list; those in `here` are lower than the subschema's own."""

    weight: int = 1
    states: int = 0  # of the automaton of `pattern`
    key_states: int = 0  # of those of `patternProperties`
    quadratic: int = 0  # steps per squared length of a text: `format`
    unique: bool = False
    times: int = 1  # that the subschemas in `here` are gone through
    here: list[int] = field(default_factory=list)  # apply to the same value
    names: list[int] = field(default_factory=list)  # apply to each key
    properties: dict[str, int] = field(default_factory=dict)
    any_property: list[int] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)

    @property
    def fixed(self) -> bool:
        """Its steps depend on no value."""
        return not (self.states or self.key_states or self.quadratic or self.unique)

    def steps(self, value: Any) -> int:
        if isinstance(value, str):
            length = len(value)
            return self.weight + length // _TEXT_PER_STEP + self.states * length + self.quadratic * length * length
        if isinstance(value, dict):
            return self.weight + len(value) + (self.key_states * sum(map(len, value)) if self.key_states else 0)
        if isinstance(value, list):
            return self.weight + len(value) + (_ONE_BY_ONE * _compared_size(value) if self.unique else 0)
        return self.weight

    def children(self, value: Any) -> Iterator[tuple[Any, Any, list[int]]]:
        """Each part of the value, its place, and what applies to it."""
        if isinstance(value, dict) and (self.properties or self.any_property):
            for key, part in value.items():
                named = self.properties.get(key)
                yield key, part, self.any_property if named is None else [named, *self.any_property]
        elif isinstance(value, list) and (self.prefix or self.items):
            for place, part in enumerate(value):
                yield place, part, [*self.prefix[place : place + 1], *self.items]


class Outline:
    """The costs of one schema."""

    __slots__ = ("_chain", "_reader", "_root", "_spread", "_subschemas", "unions")

    def __init__(self, schema: Any) -> None:
        reader = _Reader(schema)
        self._root = reader.index_of(schema)
        self._subschemas = reader.subschemas
        self.unions = reader.unions  # a failed check of theirs is explained at a cost per step
        self._chain = max(reader.chains)
        self._spread = _spread(self._subschemas, self._root)

    def steps(self, document: Any, text: str, share: int = 1) -> int | None:
        """At most so many for the document, of which `text` is the JSON; None: more than a `share`th of MOST_STEPS."""
        if self._spread is not None:
            values = 1 + text.count(",") + text.count("[") + text.count("{")
            steps = self._spread * (2 * values + len(text) // _TEXT_PER_STEP)
            if steps <= MOST_STEPS // share:
                return steps
        return self._counted(document, MOST_STEPS // share, _MOST_PAIRS // share)

    def _counted(self, document: Any, most_steps: int, most_pairs: int) -> int | None:
        steps = pairs = depth = 0
        level: list[tuple[Any, dict[int, int]]] = [(document, {self._root: 1})]
        while level:
            depth += self._chain
            if depth > _DEEPEST:
                return None
            below: list[tuple[Any, dict[int, int]]] = []
            for value, applied in level:
                parts: dict[Any, tuple[Any, dict[int, int]]] = {}
                for subschema, times in self._all_here(applied):
                    pairs += 1 + (len(value) if isinstance(value, dict | list) else 0)
                    steps += times * subschema.steps(value)
                    if steps > most_steps or pairs > most_pairs:
                        return None
                    if subschema.names and isinstance(value, dict):
                        below.extend((key, dict.fromkeys(subschema.names, times)) for key in value)
                    for place, part, applicable in subschema.children(value):
                        counts = parts.setdefault(place, (part, {}))[1]
                        for index in applicable:
                            counts[index] = counts.get(index, 0) + times
                below.extend(parts.values())
            level = below
        return steps

    def _all_here(self, applied: dict[int, int]) -> Iterator[tuple[_Subschema, int]]:
        """Those that apply to one value, each once, with how often it does."""
        counts = dict(applied)
        heap = [-index for index in counts]
        heapq.heapify(heap)
        while heap:
            index = -heapq.heappop(heap)
            subschema, times = self._subschemas[index], counts[index]
            yield subschema, times
            for inner in subschema.here:
                if inner not in counts:
                    counts[inner] = 0
                    heapq.heappush(heap, -inner)
                counts[inner] += times * subschema.times


class _Reader:
    """Reads subschemas depth first along those that apply to the same value, so that these get the lower indices."""

    def __init__(self, schema: Any) -> None:
        self._document = schema
        self.subschemas: list[_Subschema] = []
        self.chains: list[int] = []
        self._costs: list[int] = []  # of one pass over one value
        self.unions = False
        self._indices: dict[int, int] = {}  # by id()
        self._open: set[int] = set()
        self._plain: dict[int, int] = {}  # by number of keywords
        self._plain_read = 0
        self._waiting: list[tuple[_Subschema, dict[str, Any]]] = []  # whose parts of the value are to be read
        self._patterns: dict[str, int] = {}
        self._references = self._unevaluated = self._classes = self._pattern_text = 0

    def index_of(self, schema: Any) -> int:
        """Of the root: reads all that it leads to."""
        root = self._read(schema, 0)
        while self._waiting:
            subschema, keywords = self._waiting.pop()
            properties = _mapped(keywords.get("properties"))
            subschema.properties = {name: self._read(inner, 0) for name, inner in properties.items()}
            inners = [*_mapped(keywords.get("patternProperties")).values()]
            inners += [keywords[name] for name in _OF_PROPERTIES if name in keywords]
            subschema.any_property = [self._read(inner, 0) for inner in inners]
            items = [keywords[name] for name in _OF_ITEMS if name in keywords and not isinstance(keywords[name], list)]
            subschema.items = [self._read(inner, 0) for inner in items]
            prefix = [*_listed(keywords.get("prefixItems")), *_listed(keywords.get("items"))]
            subschema.prefix = [self._read(inner, 0) for inner in prefix]
            if "propertyNames" in keywords:
                subschema.names = [self._read(keywords["propertyNames"], 0)]
            for name in _ELSEWHERE:
                for inner in _mapped(keywords.get(name)).values():
                    self._read(inner, 0)
            if "contentSchema" in keywords:
                self._read(keywords["contentSchema"], 0)
        return root

    def _read(self, schema: Any, depth: int) -> int:
        key = id(schema)
        if key in self._indices:
            return self._indices[key]
        if isinstance(schema, dict) and schema.keys() <= _PLAIN:
            return self._read_plain(len(schema))
        if key in self._open:
            raise TooCostlyError("a subschema refers to itself for the same value")
        if depth >= _LONGEST_CHAIN:
            raise TooCostlyError(f"more than {_LONGEST_CHAIN} subschemas lead from one to the next for the same value")
        if len(self.subschemas) >= _MOST_SUBSCHEMAS:
            raise TooCostlyError(f"more than {_MOST_SUBSCHEMAS} subschemas")
        self._open.add(key)
        subschema = _Subschema()
        if isinstance(schema, dict):
            self._read_keywords(subschema, schema, root=schema is self._document)
            if not schema.keys().isdisjoint(_REFERRING):
                subschema.here = [self._read(inner, depth + 1) for inner in self._here(schema)]
            if not schema.keys().isdisjoint(_DIVIDING):
                self._waiting.append((subschema, schema))
        self._open.discard(key)
        self._add(subschema)
        self._indices[key] = len(self.subschemas) - 1
        return self._indices[key]

    def _read_plain(self, keywords: int) -> int:
        """One for all with so many keywords."""
        self._plain_read += 1
        if self._plain_read > _MOST_PLAIN:
            raise TooCostlyError(f"more than {_MOST_PLAIN} subschemas")
        if keywords not in self._plain:
            self._plain[keywords] = len(self.subschemas)
            self._add(_Subschema(weight=1 + keywords))
        return self._plain[keywords]

    def _add(self, subschema: _Subschema) -> None:
        chain = 1 + max((self.chains[inner] for inner in subschema.here), default=0)
        if chain > _LONGEST_CHAIN:
            raise TooCostlyError(f"more than {_LONGEST_CHAIN} subschemas lead from one to the next for the same value")
        cost = subschema.weight + subschema.times * sum(self._costs[inner] for inner in subschema.here)
        if cost > MOST_STEPS:
            raise TooCostlyError(f"one value takes more than {MOST_STEPS} steps")
        if subschema.times > 1:
            self._unevaluated += cost
            if self._unevaluated > _MOST_UNEVALUATED:
                raise TooCostlyError("'unevaluated' keywords with too many subschemas")
        self.subschemas.append(subschema)
        self.chains.append(chain)
        self._costs.append(cost)

    def _here(self, schema: dict[str, Any]) -> Iterator[Any]:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self._target(reference)
        for name in _LISTS_HERE:
            yield from _listed(schema.get(name))
        for name in _SINGLE_HERE:
            if name in schema:
                yield schema[name]
        for name in _MAPS_HERE:
            yield from (inner for inner in _mapped(schema.get(name)).values() if not isinstance(inner, list))

    def _target(self, reference: str) -> Any:
        self._references += 1
        if self._references > _MOST_REFERENCES:
            raise TooCostlyError(f"more than {_MOST_REFERENCES} references")
        found = self._document
        pointer = unquote(reference.removeprefix("#"))
        if not reference.startswith("#") or (pointer and not pointer.startswith("/")):
            raise TooCostlyError("a reference that is not a JSON pointer into the schema")
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (LookupError, ValueError, TypeError) as exc:
                raise TooCostlyError(f"a reference to nothing: {reference[:80]!r}") from exc
            if found is not self._document and isinstance(found, dict) and _has_own_base(found):
                raise TooCostlyError("a reference into a subschema with an '$id' of its own")
        return found

    def _read_keywords(self, subschema: _Subschema, schema: dict[str, Any], *, root: bool) -> None:
        if any(name in schema for name in _REFUSED) or (not root and _has_own_base(schema)):
            raise TooCostlyError("'$dynamicRef', '$recursiveRef', or a subschema with an '$id' of its own")
        self.unions = self.unions or not _UNIONS.isdisjoint(schema)
        subschema.weight = len(schema)
        if schema.keys().isdisjoint(_WEIGHED):
            return
        values = [*_listed(schema.get("enum")), schema.get("const")]
        lists = sum(len(value) for value in schema.values() if isinstance(value, list | dict))
        lists += sum(len(_listed(value)) for name in _REQUIRED_WITH for value in _mapped(schema.get(name)).values())
        subschema.weight += lists // 4 + sum(map(_compared_size, values))
        subschema.unique = schema.get("uniqueItems") is True
        if isinstance(schema.get("format"), str):
            subschema.quadratic = 100 if schema["format"] == "regex" else 1
        if isinstance(schema.get("pattern"), str):
            subschema.states = self._states(schema["pattern"])
        subschema.key_states = sum(map(self._states, _mapped(schema.get("patternProperties"))))
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            subschema.times = _LOOKED_THROUGH

    def _states(self, pattern: str) -> int:
        if pattern in self._patterns:
            return self._patterns[pattern]
        self._patterns[pattern] = states = 2 * _states_of(pattern)
        self._classes += len(_CLASS.findall(pattern))
        self._pattern_text += len(pattern)
        if self._classes > _MOST_CLASSES or len(self._patterns) > _MOST_PATTERNS:
            raise TooCostlyError(f"more than {_MOST_PATTERNS} patterns, or {_MOST_CLASSES} character classes in them")
        if self._pattern_text > _MOST_PATTERN_TEXT:
            raise TooCostlyError(f"patterns of more than {_MOST_PATTERN_TEXT} characters")
        return states


def _states_of(pattern: str) -> int:
    """At most so many that the automaton is in at once, where repetitions are written out."""
    if len(pattern) > _MOST_PATTERN_TEXT or _OPAQUE_PATTERN.search(pattern):
        raise TooCostlyError(f"a pattern whose size is not known: {pattern[:80]!r}")
    groups, last = [0], 0
    for token in _PATTERN_TOKEN.finditer(pattern):
        if token["least"] is not None:
            most = min(10_000, max(1, int(token["least"][:6]), int((token["most"] or "1")[:6])))
            groups[-1] += last * (most - 1)
            last *= most
        elif token[0] == "(":
            groups.append(0)
        elif token[0] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif token[0] not in ("*", "+", "?"):
            last = 1
            groups[-1] += 1
    return sum(groups)


def _spread(subschemas: list[_Subschema], root: int) -> int | None:
    """The steps of all subschemas, each as often as the schema leads to it: no value meets it more often. None where
    there is no end of it (recursion), or where it depends on the values.
    """
    known: dict[int, int] = {}
    stack: list[tuple[int, bool]] = [(root, False)]
    opened: set[int] = set()
    while stack:
        index, left = stack.pop()
        subschema = subschemas[index]
        parts = [*subschema.properties.values(), *subschema.any_property, *subschema.prefix, *subschema.items]
        parts += subschema.names
        if left:
            opened.discard(index)
            here = subschema.times * sum(known[inner] for inner in subschema.here)
            known[index] = min(subschema.weight + here + sum(known[inner] for inner in parts), MOST_STEPS + 1)
        elif index not in known:
            if index in opened or len(opened) > _DEEPEST or not subschema.fixed:
                return None
            opened.add(index)
            stack.append((index, True))
            stack.extend((inner, False) for inner in (*subschema.here, *parts))
    return known[root]


def _compared_size(value: Any) -> int:
    """The steps of comparing it: strings by their length, containers with all that is in them."""
    size, waiting = 0, [value]
    while waiting and size + len(waiting) <= MOST_STEPS // _ONE_BY_ONE:
        part = waiting.pop()
        if isinstance(part, dict | list):
            size += 14
            waiting.extend(part.values() if isinstance(part, dict) else part)
        else:
            size += 1 + (len(part) // _TEXT_PER_STEP if isinstance(part, str) else 0)
    return size if not waiting else MOST_STEPS + 1


def _has_own_base(schema: dict[str, Any]) -> bool:
    return isinstance(schema.get("$id"), str) or isinstance(schema.get("id"), str)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapped(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
