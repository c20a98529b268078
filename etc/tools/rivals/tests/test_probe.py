import time

from etc.tools.rivals import routers
from etc.tools.rivals.probe import Probe
from tests.e2e.appliance import wait_for
from tests.fakes.ports import free_port


def test_answers_are_timed() -> None:
    with routers.upstream() as (url, _), Probe(url) as probe:
        wait_for(lambda: len(probe.seconds) > 1, 20, lambda: "nothing was answered")
    assert not probe.failures
    assert all(0 < seconds < 20 for seconds in probe.seconds)


def test_what_does_not_answer_is_counted() -> None:
    with Probe(f"http://127.0.0.1:{free_port()}") as probe:
        wait_for(lambda: probe.failures > 0, 20, lambda: "nothing was asked")
    assert not probe.seconds


def test_it_ends_with_its_block() -> None:
    with Probe(f"http://127.0.0.1:{free_port()}") as probe:
        pass
    before = probe.failures
    time.sleep(0.1)
    assert probe.failures == before
