"""The long form of limits and usage sees what must not be."""

from collections import Counter

import pytest

from tests.accounts.limits import PER_MINUTE, Answer, Granted, Waits
from tests.accounts.run import limits_found, usage_found, waits_found
from tests.accounts.usage import Told
from tests.e2e.appliance import Appliance


def granted(rate: float) -> Granted:
    """Of requests: `rate` of the limit, evenly, for two minutes."""
    each_s = 60 / PER_MINUTE["requests"] / rate
    count = int(120 / each_s)
    return Granted.of("requests", [Answer(asked=0, first=number * each_s, status=200) for number in range(count)])


@pytest.mark.parametrize(("rate", "good"), [(1.0, [True, True]), (0.98, [False, True]), (1.2, [False, False])])
def test_what_is_granted_is_compared_with_the_ideal(rate: float, good: list[bool]) -> None:
    found = [*limits_found({"requests": granted(rate)}, 20.0, 110.0)]
    assert [is_good for is_good, _ in found] == good
    assert f"{rate:.2f}" in found[0][1]


def test_rejected_requests_were_not_granted() -> None:
    answers = [Answer(asked=0, first=1, status=429), Answer(asked=0, first=2, status=200, prompt=3, completion=4)]
    assert [*Granted.of("tokens", answers).amounts] == [7.0]


@pytest.mark.parametrize(("waits_s", "good"), [([0.1, 0.2, 9.0], True), ([0.1, 1.1, 1.2], False)])
def test_the_median_wait_beside_a_flood_counts(waits_s: list[float], good: bool) -> None:
    ((found, text),) = waits_found(Waits(alone=[0.1], flooded=waits_s, flood=[5.0]))
    assert (found, "longest" in text) == (good, True)


@pytest.mark.anyio
async def test_usage_has_to_be_what_the_clients_were_told() -> None:
    berth = Appliance("m=any@sim")
    told = Told(berth, "m", ("alice",))
    told.results, told.killed = Counter(whole=2, lost=1), Counter(engine=1)
    await told.told("alice", _answer())
    forms = {"JSON": {"alice": (3, 4)}, "CSV": {"alice": (3, 5)}}
    assert [is_good for is_good, _ in usage_found(told, forms)] == [True, True, False]
    told.results["failed: no engine"] += 1
    assert [is_good for is_good, _ in usage_found(told, {})] == [False]
    berth.close()


async def _answer() -> tuple[int, int]:
    return 3, 4
