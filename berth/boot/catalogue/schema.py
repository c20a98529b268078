"""The types of a catalogue, which msgspec checks while it reads the file.

All facts of a model come from its `source`, except those that `sources` lists: the name of the fact ("context", or
"parsers.vllm" for the parsers of one engine) with its own source. A source is a name in `Document.sources`, or that
name with the path of the file: "recipes:models/Qwen/x.yaml". A fact that is left out is unknown. A parser that is null
is known: the engine has none for the model. Where several names are right, the first is used.
"""

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

VERSION = 1
ENGINES = ("vllm", "sglang", "trtllm")
UNNAMED = "this catalogue"  # the source of facts in an operator's file that names none


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mistyped name in an operator's file is an error, not a fact that is silently ignored."""


ComputeCapability: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]  # "8.9"


class Source(Struct, frozen=True, kw_only=True):
    url: str
    date: str  # "2026-08-21": of the state that was read


Names: TypeAlias = str | tuple[str | None, ...] | UnsetType | None


class ParserNames(Struct, frozen=True, kw_only=True):
    """The parsers of one engine."""

    tool: Names = UNSET
    reasoning: Names = UNSET

    def right(self, kind: str) -> tuple[str | None, ...]:
        """All names of a kind ("tool", "reasoning") that are right; none: unknown."""
        names: Names = getattr(self, kind)
        if isinstance(names, UnsetType):
            return ()
        return names if isinstance(names, tuple) else (names,)

    def over(self, below: "ParserNames") -> "ParserNames":
        """These names, and those of `below` where there are none."""
        return ParserNames(
            tool=below.tool if self.tool is UNSET else self.tool,
            reasoning=below.reasoning if self.reasoning is UNSET else self.reasoning,
        )


class Precision(StrEnum):
    """Of the weights, the most exact first."""

    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    MXFP8 = "mxfp8"
    MXFP4 = "mxfp4"
    NVFP4 = "nvfp4"
    INT4 = "int4"
    MIXED = "mixed"  # layers of several precisions below 8 bits


class Variant(Struct, frozen=True, kw_only=True):
    """The same model with other weights."""

    id: str
    precision: Precision
    weights_bytes: int | None = None  # of its files
    memory_bytes: int | None = None  # the GPU memory that a recipe states as the least
    least_capability: ComputeCapability | None = None  # None: that of the precision


class Capability(Struct, frozen=True, kw_only=True):
    """The least compute capability for weights of one precision: below it the engine has no kernels."""

    least: ComputeCapability
    source: str = UNNAMED


class Draft(Struct, frozen=True, kw_only=True):
    """What predicts tokens for the model's speculation."""

    method: str | None = None  # "mtp", "eagle3"; None: the engine finds it out from the draft model
    tokens: int | None = None
    id: str | None = None  # None: the model has it itself


class RemoteCode(Struct, frozen=True, kw_only=True):
    """Whether an engine needs the Python code of the checkpoint."""

    needed: bool
    version: str  # of the engine


class Model(Struct, frozen=True, kw_only=True):
    """The facts about one model and its variants."""

    id: str
    also: tuple[str, ...] = ()  # further hub ids; * stands for any text
    context: int | None = None  # tokens
    parsers: dict[str, ParserNames] = {}  # by engine
    variants: tuple[Variant, ...] = ()  # the model itself among them
    draft: Draft | None = None
    text_only: bool | None = None  # whether it can be loaded without its encoders of images and sound
    remote_code: dict[str, RemoteCode] = {}  # by engine
    source: str = UNNAMED
    sources: dict[str, str] = {}

    def over(self, below: "Model") -> "Model":
        """These facts, and those of `below` that they leave out, each with its source."""
        own, others = self.facts(), below.facts()
        origins = {name: below.source_of(name) for name in others} | {name: self.source_of(name) for name in own}
        source = self.source if self.source != UNNAMED else below.source
        parsers = {
            engine: self.parsers.get(engine, ParserNames()).over(below.parsers.get(engine, ParserNames()))
            for engine in {**below.parsers, **self.parsers}
        }
        added = (f"parsers.{engine}" for engine in below.parsers if engine not in self.parsers)
        origins |= {name: below.source_of(name) for name in added if "parsers" in own}
        also = below.also if self.id.casefold() == below.id.casefold() else ()
        fields = {name: getattr(self if name in own else below, name) for name in (*others, *own)}
        return Model(
            id=self.id,
            also=tuple(dict.fromkeys((*self.also, *also))),
            source=source,
            sources={name: origin for name, origin in origins.items() if origin != source},
            **(fields | ({"parsers": parsers} if parsers else {})),
        )

    def source_of(self, fact: str) -> str:
        """`fact` is the name of a field, or "parsers.vllm" for those of one engine."""
        return self.sources.get(fact) or self.sources.get(fact.partition(".")[0], self.source)

    def facts(self) -> tuple[str, ...]:
        """The names of those that are known."""
        names = (name for name in self.__struct_fields__ if name not in ("id", "also", "source", "sources"))
        return tuple(name for name in names if getattr(self, name) not in (None, (), {}))


class Document(Struct, frozen=True, kw_only=True):
    """A catalogue file."""

    version: int = VERSION
    sources: dict[str, Source] = {}
    capabilities: dict[Precision, Capability] = {}
    models: tuple[Model, ...] = ()


FACTS = frozenset(Model.__struct_fields__) | {f"parsers.{engine}" for engine in ENGINES}


def document(fields: Any) -> Document:
    """ValueError with the place of the first thing that is wrong."""
    try:
        found = msgspec.convert(fields, Document, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    if found.version != VERSION:
        raise ValueError(f"has version {found.version}; this Berth reads {VERSION}")
    for model in found.models:
        if unknown := {*model.parsers, *model.remote_code} - set(ENGINES):
            raise ValueError(f"{model.id} names {min(unknown)!r}, which is no engine: {', '.join(ENGINES)}")
        if unknown := {*model.sources} - FACTS:
            raise ValueError(f"{model.id} has a source for {min(unknown)!r}, which is no fact")
    return found
