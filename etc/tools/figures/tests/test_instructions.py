"""Instructions are those that callgrind has counted between two of its dumps."""

import pytest

from etc.tools.figures import instructions
from etc.tools.figures.instructions import text, total

COUNTS = "version: 1\ndesc: Trigger: dump request\nsummary: 0\n\nfn=(1)\n1 12\n\ntotals: 8864664\n"


def test_the_totals_count() -> None:
    assert total(COUNTS) == 8_864_664


def test_a_file_that_is_not_whole_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no totals"):
        total(COUNTS[:40])


def test_the_first_form_is_the_base() -> None:
    found = {"request": {"clone": 354_586.0, ".compiled": 253_394.0}}
    assert text(found).splitlines()[1:] == [
        "request",
        "  clone                      354,586    1.000x",
        "  .compiled                  253,394    0.715x",
    ]


def test_without_valgrind_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="there is no valgrind on PATH"):
        instructions.instructions(["."], python="python3")
