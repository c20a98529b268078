"""What the features cost is measured with real requests through all three applications."""

from etc.tools.figures.cost import Costs, costs, text


def test_each_application_is_measured() -> None:
    found = costs(rounds=1)
    assert list(found.request) == list(found.token) == ["bare", "usual", "all", "pair", "canary", "rules"]
    assert all(one > 0 for one in (*found.request.values(), *found.token.values()))


def test_differences_are_named() -> None:
    request = {"bare": 80, "usual": 82.5, "all": 90, "pair": 83, "canary": 85, "rules": 84}
    token = dict.fromkeys(request, 9.0) | {"all": 9.25}
    assert text(Costs(request=request, token=token)).splitlines()[-4:] == [
        "usual - bare          +2.5    +0.00",
        "all - usual           +7.5    +0.25",
        "canary - pair         +2.0    +0.00",
        "rules - usual         +1.5    +0.00",
    ]
