"""The swap soak sees what must not be. `make swap-soak` runs it; tests/e2e/test_swaps.py is the short form."""

import httpx2
import openai
import pytest

from tests.chaos.observation import WAYS, Observation
from tests.chaos.swap_soak import Seen, changes, judge, report, text_of

REFUSED = openai.APIConnectionError(request=httpx2.Request("POST", "http://berth"))
LATE = openai.APITimeoutError(request=httpx2.Request("POST", "http://berth"))
TEXT = text_of("red")


def seen(text: str, finish: str | None = "stop", error: Exception | None = None) -> Observation:
    return Observation(model="red", way=WAYS[0], text=text, finish=finish, error=error)


@pytest.mark.parametrize(
    ("one", "kills", "wrong"),
    [
        (seen(TEXT), [], ""),
        (seen(TEXT[:30], error=REFUSED), [(105.0, "engine")], ""),
        (seen("", error=REFUSED), [(99.0, "worker")], ""),
        (seen(TEXT[:30], error=REFUSED), [(105.0, "control")], "lost: red"),
        (seen(TEXT[:30], error=REFUSED), [(105.0, "sleeper")], "lost: red"),
        (seen(TEXT[:30], error=REFUSED), [(97.0, "engine"), (111.0, "engine")], "lost: red"),
        (seen(TEXT[:30]), [(105.0, "engine")], "silent: red"),
        (seen(text_of("blue")), [], "wrong: red"),
        (seen("", error=LATE), [(105.0, "engine")], "told: red"),  # nothing may take as long as that
    ],
)
def test_judges_an_answer_by_its_text_and_what_was_killed(
    one: Observation, kills: list[tuple[float, str]], wrong: str
) -> None:
    found = judge(one, kills, began=100.0, ended=110.0)
    assert (found == "") is (wrong == "")
    assert found.startswith(wrong)


def test_report_names_what_was_wrong() -> None:
    lines = report(Seen(swaps=3, whole=2, wrong=["lost: red"], kills=[(1.0, "engine"), (2.0, "engine")])).split("\n")
    assert lines[0] == "3 swaps; killed: engine 2"
    assert lines[-1] == "lost: red"


def test_report_sums_the_changes_of_models() -> None:
    text = "\n".join(
        f'berth_model_change{kind}_total{{change="sleep",model="{model}",why="swap"}} {number}'
        for kind, model, number in (("s", "red", 2.0), ("s", "blue", 1.0), ("_seconds", "red", 0.5))
    )
    assert changes(text) == {"sleep by swap": [3.0, 0.5]}
    assert "sleep by swap: 3 in 0.5 s" in report(Seen(changes=changes(text)))
