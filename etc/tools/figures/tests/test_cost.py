"""What the features cost is measured with real requests through all applications."""

from etc.tools.figures.cost import FEATURES, SETUPS, Calls, Costs, calls, costs, text


def test_each_application_is_measured() -> None:
    found = costs(rounds=1)
    assert list(found.request) == list(found.token) == list(SETUPS)
    assert all(one > 0 for one in (*found.request.values(), *found.token.values()))


def test_each_feature_takes_calls_and_none_of_them_for_a_token() -> None:
    found = calls()
    for counted in (found.request, found.stream):
        taken = [counted[name] for name in FEATURES]
        assert taken == sorted(set(taken))  # each takes some
        assert counted["canary"] > counted["pair"]
        assert counted["rules"] > counted["ready"]
    assert len(set(found.token.values())) == 1
    assert found.token["all"] > 10  # tokens were counted


def test_differences_are_named() -> None:
    whole = dict.fromkeys(SETUPS, 100)
    times = Costs(request=dict.fromkeys(SETUPS, 80.0) | {"all": 90}, token=dict.fromkeys(SETUPS, 9.0) | {"all": 9.25})
    counted = Calls(
        request=whole | {"all": 140, "canary": 104}, stream=whole | {"all": 141}, token=dict.fromkeys(SETUPS, 20)
    )
    assert [line.split() for line in text(times, counted).splitlines()[-4:]] == [
        ["all", "-", "off", "+10.00", "+0.25", "+40", "+41", "+0.0"],
        ["rules", "-", "ready", "+0.00", "+0.00", "+0", "+0", "+0.0"],
        ["on", "request", "-", "ready", "+0.00", "+0.00", "+0", "+0", "+0.0"],
        ["canary", "-", "pair", "+0.00", "+0.00", "+4", "+0", "+0.0"],
    ]
