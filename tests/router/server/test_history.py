"""What operators may read of revisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.plan import Author, Plan, Revision, RevisionState
from berth.records import revisions
from berth.router.server.history import history
from tests.records.test_usage import plan_in

ONE = Revision(model="m", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), says={"engines": "vllm, sglang"})
TWO = replace(ONE, number=2, by=Author.MIGRATE, says={}, versions={"sglang": "0.5", "source": "x"}, operation="7f")
THREE = replace(ONE, number=3, state=RevisionState.REJECTED, reason="failures: 3 of 15")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def test_revisions_are_listed_by_model_with_the_one_that_serves(plan: Plan) -> None:
    revisions.keep(plan.paths.data_dir, ONE, TWO, THREE, replace(ONE, model="gone"))

    found = history(plan, {})

    assert (found["problem"], list(found["models"]), found["models"]["n"]) == ("", ["m", "n"], [])
    shown = [(one["number"], one["engines"], one["state"], one["serves"]) for one in found["models"]["m"]]
    assert shown == [
        (3, "vllm, sglang", "rejected", False),
        (2, "sglang", "promoted", True),
        (1, "vllm, sglang", "promoted", False),
    ]
    assert (found["models"]["m"][0]["reason"], found["models"]["m"][1]["operation"]) == ("failures: 3 of 15", "7f")


def test_a_damaged_history_is_reported(plan: Plan) -> None:
    revisions.keep(plan.paths.data_dir, ONE)
    with revisions.path(plan.paths.data_dir).open("ab") as file:
        file.write(b"{\n")

    assert "has 1 damaged line" in history(plan, {})["problem"]
