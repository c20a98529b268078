"""The code keeps to its budget of counts."""

import pytest

from etc.tools.figures.budget import BUDGETS, Budget, excesses, measured
from etc.tools.figures.census import take
from etc.tools.figures.cost import calls
from etc.tools.figures.helpers import one_use_helpers
from etc.tools.figures.imports import folders
from etc.tools.figures.scenes import ROOT, walks_of
from etc.tools.figures.source import read_package
from etc.tools.figures.system_calls import NAMES, is_available, system_calls
from etc.tools.figures.walk import length


@pytest.mark.timeout(120)
def test_requests_tokens_and_helpers_keep_to_the_budget() -> None:
    files = read_package(ROOT / "berth")
    census, *_ = take(files, one_use_helpers(files))
    walks = {name: length(walk) for name, walk in walks_of(["router"]).items()}
    figures = measured(census, folders(files), walks, calls(), {})
    assert figures.keys() == BUDGETS.keys() - set(NAMES)
    assert min(figures[name] for name in figures if "calls" in name or "of a" in name) > 5  # something was measured
    assert excesses(figures) == []


@pytest.mark.skipif(not is_available(), reason="strace is not installed, or may not trace")
@pytest.mark.timeout(120)
def test_system_calls_keep_to_the_budget() -> None:
    counted = system_calls()
    assert list(counted) == list(NAMES)
    assert min(counted.values()) > 2  # something was counted
    assert excesses(counted) == []


def test_every_budget_is_on_the_way_to_its_aim() -> None:
    assert [name for name, budget in BUDGETS.items() if budget.aim > budget.most] == []


def test_names_what_is_over() -> None:
    budgets = {"calls": Budget(most=3, aim=1), "files": Budget(most=2, aim=2)}
    assert excesses({"files": 2}, budgets) == []  # what was not counted is not over
    assert excesses({"calls": 4, "files": 2}, budgets) == ["calls: 4, at most 3 are allowed"]
