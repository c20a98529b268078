"""What the catalogue says about a model, and how an operator's file changes it."""

from pathlib import Path
from typing import Any

import pytest

from berth.boot.catalogue.entry import Entry
from berth.boot.catalogue.lookup import Catalogue, load, merged, packaged
from berth.boot.catalogue.schema import Document, Variant, document
from berth.errors import ConfigError
from berth.plan import EngineName

MODELS = [
    {
        "id": "acme/Big-8B",
        "also": ["acme/*-chat"],
        "context": 4096,
        "parsers": {"vllm": {"tool": ["hermes", "qwen3_json"], "reasoning": None}},
        "variants": [{"id": "acme/Big-8B", "precision": "bf16"}, {"id": "other/Big-8B-FP8", "precision": "fp8"}],
        "source": "recipes:models/big.yaml",
    },
    {"id": "acme/small-chat", "context": 512, "source": "recipes:models/small.yaml"},
]
SOURCES = {"recipes": {"url": "https://example.org/recipes", "date": "2026-08-21"}}
BELOW = document({"sources": SOURCES, "models": MODELS, "capabilities": {"fp8": {"least": "8.9"}}})


def found(catalogue: Catalogue, source: str, *bases: str) -> Entry:
    entry = catalogue.find(source, bases)
    assert entry is not None
    return entry


@pytest.mark.parametrize(
    ("source", "bases", "context"),
    [
        ("acme/Big-8B", (), 4096),
        ("ACME/big-8b", (), 4096),
        ("other/Big-8B-FP8", (), 4096),
        ("acme/new-chat", (), 4096),
        ("acme/small-chat", (), 512),  # its own entry, not the pattern of another
        ("me/finetuned", ("who/knows", "acme/small-chat"), 512),
        ("acme/Big-8B", ("acme/small-chat",), 4096),
        ("me/finetuned", (), None),
        ("/models/acme/Big-8B", (), None),
    ],
)
def test_finds_a_model_by_its_id_then_by_its_base(source: str, bases: tuple[str, ...], context: int | None) -> None:
    entry = Catalogue(BELOW).find(source, bases)
    assert (entry and entry.model.context) == context


def test_names_the_parsers_and_where_they_are_from() -> None:
    (tool, reasoning) = found(Catalogue(BELOW), "me/x", "acme/Big-8B").known_parsers()
    assert (tool.engine, tool.kind, tool.name) == (EngineName.VLLM, "tool", "hermes")
    assert (reasoning.kind, reasoning.name) == ("reasoning", None)
    assert tool.origin == "catalogue by the base model acme/Big-8B: recipes of 2026-08-21"


@pytest.mark.parametrize(
    ("variant", "least"),
    [
        ({"precision": "fp8"}, (8, 9)),
        ({"precision": "fp8", "least_capability": "12.0"}, (12, 0)),
        ({"precision": "int4"}, ()),
    ],
)
def test_the_capability_of_a_variant_is_its_own_or_that_of_its_precision(
    variant: dict[str, Any], least: tuple[int, ...]
) -> None:
    (model,) = document({"models": [{"id": "a/b", "variants": [{"id": "a/c", **variant}]}]}).models
    assert Catalogue(BELOW).least_capability(model.variants[0]) == least


OWN = """
models:
- id: acme/Big-8B
  parsers: {vllm: {tool: mistral}, sglang: {tool: null}}
- id: me/mine
  context: 100
"""


def test_an_operators_facts_win_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    catalogue = Catalogue(merged(load(str(path)).document, BELOW), path=str(path))
    model = found(catalogue, "other/Big-8B-FP8").model
    assert model.context == 4096
    assert model.parsers["vllm"].right("tool") == ("mistral",)
    assert model.parsers["vllm"].right("reasoning") == (None,)
    assert model.parsers["sglang"].right("tool") == (None,)
    assert (model.source_of("parsers"), model.source_of("context")) == ("this catalogue", "recipes:models/big.yaml")
    assert found(catalogue, "acme/new-chat").parsers_origins["vllm"] == f"catalogue: {path}"
    assert found(catalogue, "me/mine").model.context == 100
    assert found(catalogue, "acme/small-chat").model.context == 512


def test_an_entry_for_a_variant_leaves_the_model_as_it_is() -> None:
    own = document({"models": [{"id": "other/Big-8B-FP8", "context": 7}]})
    catalogue = Catalogue(merged(own, BELOW))
    assert found(catalogue, "other/Big-8B-FP8").model.context == 7
    assert found(catalogue, "other/Big-8B-FP8").model.parsers == BELOW.models[0].parsers
    assert found(catalogue, "acme/Big-8B").model == BELOW.models[0]


def test_without_a_file_it_is_the_packages() -> None:
    assert load() == Catalogue(packaged())
    assert merged(Document(), BELOW) == BELOW


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [", "is not a catalogue: line 1, column 10: not YAML"),
        ("models: [{id: a/b, contexts: 5}]", "unknown field `contexts`"),
        ("x" * (1 << 23), "is not a catalogue: longer than"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    (problem,) = caught.value.problems
    assert (problem.variable, problem.value) == ("BERTH_CATALOGUE", str(path))
    assert reason in problem.reason


def test_each_id_of_the_packages_catalogue_is_one_models() -> None:
    ids = [model.id.casefold() for model in packaged().models]
    assert len(ids) == len(set(ids)) > 200
    for model in packaged().models:
        names = [one.id.casefold() for one in model.variants]
        assert len(names) == len(set(names))
        assert model.facts()


def test_a_variant_of_the_packages_catalogue_is_one_models() -> None:
    owners: dict[str, str] = {}
    for model in packaged().models:
        for one in model.variants:
            assert owners.setdefault(one.id.casefold(), model.id) in (model.id, one.id), one.id


def test_the_variant_of_an_entry_is_the_one_that_was_asked_for() -> None:
    entry = found(Catalogue(BELOW), "other/big-8b-fp8")
    assert isinstance(entry.variant("OTHER/Big-8B-FP8"), Variant)
    assert entry.variant("acme/new-chat") is None
