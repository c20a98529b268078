"""The tables of models and cards are the planner's own."""

from dataclasses import replace

import pytest

from berth.engines.model_options import LEAST_FP8_KV
from berth.units import MIB
from etc.tools.docs.cards import Card, card_table, cell, facts, fit_table, model_table, planned

CARDS, MODELS = facts()
NAMED = (
    *("RTX 3090", "RTX 4090", "RTX 5090", "L4", "L40S", "A10", "A100", "H100", "H200", "RTX PRO 6000"),
    *("GB10", "Jetson Thor"),
)


def card(name: str) -> Card:
    return next(one for one in CARDS if one.name.startswith(name))


def rows(table: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("name", NAMED)
def test_every_card_has_a_row_in_both_tables(name: str) -> None:
    for table in (card_table(), fit_table()):
        assert sum(row[0].split(" (")[0].removesuffix(" 80GB") == name for row in rows(table)) == 1


def test_each_model_has_a_column_and_its_number() -> None:
    assert {len(row) for row in rows(fit_table())} == {len(MODELS) + 1}
    assert [row[0] for row in rows(model_table())] == [str(number + 1) for number in range(len(MODELS))]


def test_a_cell_is_what_the_planner_says() -> None:
    model, found = MODELS[0], planned(MODELS[0], card("RTX 4090"))
    assert found
    assert found.memory
    assert cell(found).strip("*") == f"{(found.context or 0) // 1024}k × {found.memory.kv_tokens // 32768}"  # noqa: RUF001 - a multiplication sign
    assert found.memory.weights_bytes == model.weights_bytes
    assert cell(None) == cell(replace(found, memory=None)) == "-"


def test_more_memory_never_holds_less() -> None:
    """The context, and for equal contexts the cache."""
    smaller = card("RTX 4090")
    for model in MODELS:
        sizes = [planned(model, replace(smaller, memory_mib=gib * 1024)) for gib in (16, 24, 48, 96, 192)]
        found = [((one.context or 0), one.memory.kv_tokens) if one and one.memory else (0, 0) for one in sizes]
        assert found == sorted(found)


def test_only_part_of_a_shared_memory_is_used() -> None:
    found = planned(MODELS[0], card("GB10"))
    assert found
    assert found.memory_fraction == pytest.approx(0.85)


def test_the_table_says_where_an_fp8_cache_is_refused() -> None:
    refused = {row[0] for row in rows(card_table()) if row[3] == "no"}
    assert refused == {one.name for one in CARDS if tuple(map(int, one.compute_capability.split("."))) < LEAST_FP8_KV}
    assert {"RTX 3090", "A10", "A100 80GB"} == refused


def test_memory_is_what_nvml_reports() -> None:
    assert all(one.gpu().memory_total_bytes == one.memory_mib * MIB for one in CARDS)
