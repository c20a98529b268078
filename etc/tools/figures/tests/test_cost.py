"""What the features cost is measured with real requests through all applications."""

from etc.tools.figures.cost import FEATURES, Calls, Costs, calls, costs, text


def test_each_application_is_measured() -> None:
    found = costs(rounds=1)
    assert list(found.request) == list(found.token) == list(FEATURES)
    assert all(one > 0 for one in (*found.request.values(), *found.token.values()))


def test_each_feature_takes_calls_and_none_of_them_for_a_token() -> None:
    found = calls()
    for counted in (found.request, found.stream):
        assert list(counted.values()) == sorted(set(counted.values()))  # each takes some
    assert len(set(found.token.values())) == 1
    assert found.token["all"] > 10  # tokens were counted


def test_differences_are_named() -> None:
    times = Costs(request={"off": 80, "all": 90}, token={"off": 9, "all": 9.25})
    counted = Calls(request={"off": 100, "all": 140}, stream={"off": 300, "all": 341}, token={"off": 20, "all": 20})
    last = text(times, counted).splitlines()[-1]
    assert last.split() == ["all", "-", "off", "+10.00", "+0.25", "+40", "+41", "+0.0"]
