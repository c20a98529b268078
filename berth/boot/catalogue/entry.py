"""What the catalogue says about one model."""

from collections.abc import Mapping
from dataclasses import dataclass

from berth.boot.catalogue.schema import Model, Variant
from berth.engines.base import KnownParser, ParserKind
from berth.plan import EngineName

KINDS: tuple[ParserKind, ...] = ("tool", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the catalogue says about a model, and how the model was found in it."""

    model: Model
    base: str = ""  # the hub id of the base model by which it was found
    parsers_origins: Mapping[str, str]  # by engine, for people: "catalogue: recipes of 2026-08-21"

    def known_parsers(self) -> tuple[KnownParser, ...]:
        return tuple(
            KnownParser(engine=EngineName(engine), kind=kind, name=right[0], origin=self.parsers_origins[engine])
            for engine, names in self.model.parsers.items()
            for kind in KINDS
            if (right := names.right(kind))
        )

    def variant(self, source: str) -> Variant | None:
        """The one with this hub id."""
        return next((one for one in self.model.variants if one.id.casefold() == source.casefold()), None)
