"""The catalogue of the package, with the operator's own file, and what it says about one model.

The operator's file adds models, and wins: a fact that it states replaces that of the package, and the other facts stay.
A model is found by its own hub id, by that of a variant, and then by that of the model it was made from.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from msgspec import UNSET

from berth.boot.catalogue.entry import Entry
from berth.boot.catalogue.schema import UNNAMED, Document, Model, ParserNames, Variant, document
from berth.boot.config import yaml_text
from berth.errors import ConfigError, Problem

PACKAGED = Path(__file__).with_name("models.json")
EXAMPLE = "BERTH_CATALOGUE=/data/catalogue.yaml"
NOTHING = Document()


@dataclass(frozen=True, slots=True)
class Catalogue:
    document: Document = NOTHING
    path: str = ""  # of the operator's file

    def find(self, source: str, base_models: Sequence[str] = ()) -> Entry | None:
        """`base_models`: what the checkpoint says it was made from."""
        for base in ("", *base_models):
            if model := self._named(base or source):
                by = f" by the base model {base}" if base else ""
                origins = {
                    engine: f"catalogue{by}: {self._source(model.source_of(f'parsers.{engine}'))}"
                    for engine in model.parsers
                }
                return Entry(model=model, base=base, parsers_origins=origins)
        return None

    def least_capability(self, variant: Variant) -> tuple[int, ...]:
        """The compute capability that the kernels for its weights need; () where any will do."""
        usual = self.document.capabilities.get(variant.precision)
        text = variant.least_capability or (usual.least if usual else "")
        return tuple(int(part) for part in text.split(".") if part)

    def _source(self, text: str) -> str:
        """For people: the name of a source with its date; of an operator's fact the file."""
        name = text.partition(":")[0]
        source = self.document.sources.get(name)
        return f"{name} of {source.date}" if source else self.path if text == UNNAMED else text

    def _named(self, source: str) -> Model | None:
        """By its own id first, then by that of a variant, then by a pattern."""
        wanted, models = source.casefold(), self.document.models
        own = (model for model in models if model.id.casefold() == wanted)
        exact = (model for model in models if wanted in map(str.casefold, ids(model)))
        alike = (model for model in models for one in model.also if "*" in one and fnmatchcase(wanted, one.casefold()))
        return next(own, None) or next(exact, None) or next(alike, None)


def ids(model: Model) -> tuple[str, ...]:
    return (model.id, *(one.id for one in model.variants), *(one for one in model.also if "*" not in one))


@cache
def packaged() -> Document:
    return document(json.loads(PACKAGED.read_bytes()))


def load(path: str = "") -> Catalogue:
    """ConfigError for an operator's file that is not a catalogue."""
    if not path:
        return Catalogue(packaged())
    return Catalogue(merged(read(Path(path)), packaged()), path=path)


def read(path: Path) -> Document:
    """YAML, which JSON is too, with the rules of BERTH_MODELS."""
    try:
        with path.open("rb") as file:
            data = file.read(yaml_text.LARGEST_TEXT * 4 + 1)
        return document(yaml_text.read(data.decode()) or {})
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        reason = f"is not a catalogue: {' '.join(str(error).split())}"
    allowed = "a file of models with their facts, in YAML or JSON (see docs/models.md)"
    problem = Problem(variable="BERTH_CATALOGUE", value=str(path), reason=reason, allowed=allowed, example=EXAMPLE)
    raise ConfigError([problem])


def merged(own: Document, other: Document) -> Document:
    """`own` wins fact by fact. An entry for a variant has the other facts of the model, which stays."""
    below = Catalogue(other)
    found = ((model, below.find(model.id)) for model in own.models)
    added = [_over(model, entry.model) if entry else model for model, entry in found]
    stated = {model.id.casefold() for model in added}
    return Document(
        sources=other.sources | own.sources,
        capabilities=other.capabilities | own.capabilities,
        models=(*added, *(model for model in other.models if model.id.casefold() not in stated)),
    )


def _over(model: Model, below: Model) -> Model:
    """The facts of `model`, and those of `below` that it leaves out, each with its source."""
    own, others = model.facts(), below.facts()
    origins = {name: below.source_of(name) for name in others} | {name: model.source_of(name) for name in own}
    source = model.source if model.source != UNNAMED else below.source
    parsers = {
        engine: _over_names(model.parsers.get(engine), below.parsers.get(engine))
        for engine in {**below.parsers, **model.parsers}
    }
    added = (f"parsers.{engine}" for engine in below.parsers if engine not in model.parsers)
    origins |= {name: below.source_of(name) for name in added if "parsers" in own}
    also = below.also if model.id.casefold() == below.id.casefold() else ()
    fields = {name: getattr(model if name in own else below, name) for name in (*others, *own)}
    return Model(
        id=model.id,
        also=tuple(dict.fromkeys((*model.also, *also))),
        source=source,
        sources={name: origin for name, origin in origins.items() if origin != source},
        **(fields | ({"parsers": parsers} if parsers else {})),
    )


def _over_names(own: ParserNames | None, below: ParserNames | None) -> ParserNames:
    own, below = own or ParserNames(), below or ParserNames()
    return ParserNames(
        tool=below.tool if own.tool is UNSET else own.tool,
        reasoning=below.reasoning if own.reasoning is UNSET else own.reasoning,
    )
