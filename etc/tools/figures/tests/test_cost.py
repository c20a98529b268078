"""What the features cost is measured with real requests through all three applications."""

from etc.tools.figures.cost import Costs, costs, text


def test_each_application_is_measured() -> None:
    found = costs(rounds=1)
    assert list(found.request) == list(found.token) == ["bare", "usual", "all"]
    assert all(one > 0 for one in (*found.request.values(), *found.token.values()))


def test_differences_are_named() -> None:
    shown = text(Costs(request={"bare": 80, "usual": 82.5, "all": 90}, token={"bare": 9, "usual": 9, "all": 9.25}))
    assert shown.splitlines()[-2:] == ["usual - bare          +2.5    +0.00", "all - usual           +7.5    +0.25"]
