import pytest

from etc.tools.rivals.apis import APIS
from etc.tools.rivals.examples import measurement
from etc.tools.rivals.measure import Measurement
from etc.tools.rivals.translation import text


def round_of(chat: float, others: float) -> dict[str, Measurement]:
    costs = {name: chat if name == "chat" else others for name in APIS}
    return {name: measurement("berth", cpu_s=cost, tokens=1000) for name, cost in costs.items()}


def test_apis_are_shown_beside_chat() -> None:
    shown = text([round_of(0.02, 0.03), round_of(0.04, 0.06)])

    assert "1.50x" in shown
    assert shown.endswith("every API at most 2x: kept")


@pytest.mark.parametrize("cost", [0.05, 0.5])
def test_what_costs_too_much_is_named(cost: float) -> None:
    assert text([round_of(0.02, cost)]).endswith("over 2x: anthropic, ollama, responses")


def test_what_failed_is_counted() -> None:
    one = round_of(0.02, 0.02)
    one["ollama"] = measurement("berth", cpu_s=0.02, tokens=1000, failures={"status 503": 2}, unfinished=1)

    (line,) = [line for line in text([one]).splitlines() if line.startswith("ollama")]
    assert line.split()[-1] == "3"
