"""Recipes, cookbook and corrections -> the catalogue of the package; and its names against the engines' own. No I/O."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from berth.boot.catalogue.lookup import Catalogue, merged
from berth.boot.catalogue.schema import Document, Model, Names, ParserNames, Source
from etc.tools.contract.check import PARSER_FLAGS
from etc.tools.contract.table import Snapshot
from etc.tools.contract.targets import BY_NAME

Registry = Mapping[tuple[str, str], frozenset[str]]  # (engine, "tool" or "reasoning") -> the names that it has
KINDS = ("tool", "reasoning")


def gathered(recipes: Sequence[Model], cookbook: Mapping[str, tuple[ParserNames, str]]) -> tuple[Model, ...]:
    """The models of the recipes with SGLang's parsers, and those that only the cookbook has."""
    known = Catalogue(Document(models=tuple(recipes)))
    models = {model.id: model for model in recipes}
    for id_, (names, source) in cookbook.items():
        entry = known.find(id_)
        model = models[entry.model.id] if entry else Model(id=id_, source=source)
        sources = model.sources | ({"parsers.sglang": source} if source != model.source else {})
        models[model.id] = msgspec.structs.replace(model, parsers=model.parsers | {"sglang": names}, sources=sources)
    return tuple(models.values())


def composed(models: Iterable[Model], corrections: Document, states: Mapping[str, Source]) -> Document:
    """`corrections` win: a log, or the engine's own documentation, is more certain than a recipe."""
    document = merged(corrections, Document(sources=dict(states), models=tuple(models)))
    return msgspec.structs.replace(document, models=tuple(sorted(document.models, key=lambda one: one.id.casefold())))


def registry(snapshots: Iterable[Snapshot]) -> Registry:
    """The parsers that every build of an engine has."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for snapshot in snapshots:
        for kind, flags in zip(KINDS, PARSER_FLAGS, strict=True):
            choices = [one.choices for one in snapshot.options if set(flags) & set(one.flags)]
            names = frozenset(str(name) for some in choices for name in some)
            key = (str(BY_NAME[snapshot.engine].engine), kind)
            found[key] = found[key] & names if key in found else names
    return found


def stale_names(models: Iterable[Model], known: Registry) -> Iterator[str]:
    """One line for each parser that its engine does not have."""
    for model in models:
        for engine, names in model.parsers.items():
            for kind in KINDS:
                for name in set(names.right(kind)) - known.get((engine, kind), frozenset()) - {None}:
                    yield f"{model.id}: {engine} has no {kind} parser {name!r} ({model.source_of(f'parsers.{engine}')})"


def without_stale_names(model: Model, known: Registry) -> Model:
    """A recipe may name what a later version has renamed or an earlier one had: that says nothing."""

    def kept(engine: str, kind: str, names: ParserNames) -> Names:
        right = names.right(kind)
        known_to_it = tuple(name for name in right if name is None or name in known.get((engine, kind), frozenset()))
        return getattr(names, kind) if known_to_it == right else known_to_it or UNSET

    parsers = {
        engine: ParserNames(tool=kept(engine, "tool", names), reasoning=kept(engine, "reasoning", names))
        for engine, names in model.parsers.items()
    }
    return msgspec.structs.replace(model, parsers={e: one for e, one in parsers.items() if one != ParserNames()})


def unsourced(document: Document) -> Iterator[str]:
    """One line for each fact whose source the table of sources does not have."""
    named = [(f"the capability of {name}", one.source) for name, one in document.capabilities.items()]
    for model in document.models:
        facts = (*model.facts(), *(f"parsers.{engine}" for engine in model.parsers))
        named += [(f"{model.id}: {fact}", model.source_of(fact)) for fact in facts]
    for fact, source in named:
        if source.partition(":")[0] not in document.sources:
            yield f"{fact} has the source {source!r}, which the table of sources does not have"


def text(document: Document) -> str:
    """JSON with one fact, and one variant, per line, so that two versions make a readable diff."""
    fields = msgspec.to_builtins(document)
    blocks = []
    for model in fields.pop("models", ()):
        lines = [f"  {json.dumps(name)}: {_value(fact, name)}" for name, fact in model.items()]
        blocks.append(" {\n" + ",\n".join(lines) + "\n }")
    head = [f"{json.dumps(name)}: {_rows(part, ' ')}" for name, part in fields.items()]
    models = '"models": [\n' + ",\n".join(blocks) + "\n]"
    return "{\n" + ",\n".join([f'"version": {document.version}', *head, models]) + "\n}\n"


def _value(fact: Any, name: str) -> str:
    if name != "variants":
        return json.dumps(fact, ensure_ascii=False)
    return "[\n" + ",\n".join(f"   {json.dumps(one, ensure_ascii=False)}" for one in fact) + "\n  ]"


def _rows(part: Any, indent: str) -> str:
    if not isinstance(part, dict):
        return json.dumps(part)
    rows = (f"{indent}{json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in part.items())
    return "{\n" + ",\n".join(rows) + "\n}"
