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

from berth.boot.catalogue.entry import Entry
from berth.boot.catalogue.schema import UNNAMED, Document, Model, Variant, document
from berth.boot.config import yaml_text
from berth.errors import ConfigError, Problem

PACKAGED = Path(__file__).with_name("models.json")
EXAMPLE = "BERTH_CATALOGUE=/data/catalogue.yaml"
NOTHING = Document()


@dataclass(frozen=True, slots=True)
class Catalogue:
    document: Document = NOTHING
    path: str = ""  # of the operator's file

    def find(self, wanted: str, base_models: Sequence[str] = ()) -> Entry | None:
        """`base_models`: what the checkpoint says it was made from."""
        for base in ("", *base_models):
            if model := self._named(base or wanted):
                by = f" by the base model {base}" if base else ""
                origins = {}
                for engine in model.parsers:
                    text = model.source_of(f"parsers.{engine}")
                    name = text.partition(":")[0]
                    if source := self.document.sources.get(name):
                        text = f"{name} of {source.date}"
                    origins[engine] = f"catalogue{by}: {self.path if text == UNNAMED else text}"
                return Entry(model=model, base=base, parsers_origins=origins)
        return None

    def least_capability(self, variant: Variant) -> tuple[int, ...]:
        """The compute capability that the kernels for its weights need; () where any will do."""
        usual = self.document.capabilities.get(variant.precision)
        text = variant.least_capability or (usual.least if usual else "")
        return tuple(int(part) for part in text.split(".") if part)

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
    added = [model.over(entry.model) if entry else model for model, entry in found]
    stated = {model.id.casefold() for model in added}
    return Document(
        sources=other.sources | own.sources,
        capabilities=other.capabilities | own.capabilities,
        models=(*added, *(model for model in other.models if model.id.casefold() not in stated)),
    )
