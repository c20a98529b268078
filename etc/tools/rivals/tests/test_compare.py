from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from etc.tools.rivals import routers
from etc.tools.rivals.compare import Contest, in_turn
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.loads import REQUESTS
from etc.tools.rivals.routers import Router
from tests.fakes.ports import free_port


def router(name: str, url: str = "") -> Router:
    return Router(name=name, version="", url=url, command="")


def test_each_round_begins_with_another_router() -> None:
    items = [router("a"), router("b"), router("c")]
    assert ["".join(one.name for one in in_turn(items, number)) for number in range(4)] == ["abc", "bca", "cab", "abc"]
    assert in_turn([], 1) == []


@contextmanager
def nowhere(_upstream: str) -> Iterator[Router]:
    yield router("nowhere", f"http://127.0.0.1:{free_port()}")


def not_installed(_upstream: str) -> AbstractContextManager[Router]:
    raise BenchError("there is none for this machine")


def test_what_cannot_be_measured_is_left_out_in_words_and_the_others_are_measured() -> None:
    lines: list[str] = []
    contest = Contest(seconds=0.2, say=lines.append)
    starts = {"absent": not_installed, "nowhere": nowhere, "direct": routers.direct}
    contest.run(starts, [REQUESTS], rounds=2)
    found = contest.comparison
    assert found.left_out["absent"] == "there is none for this machine"
    assert "does not answer as it should" in found.left_out["nowhere"]
    assert {name: len(ones) for name, ones in found.figures(REQUESTS).measurements.items()} == {"direct": 2}
    assert sum("nowhere is left out" in line for line in lines) == 1
