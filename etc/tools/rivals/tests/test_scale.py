from etc.tools.rivals.examples import spread
from etc.tools.rivals.scale import ACTIVE, ACTIVE_LOAD, IDLE, SILENCE_MS, Crowd, idle_allowed, idle_load, text
from etc.tools.rivals.tally import Result


def test_the_limit_on_open_files_limits_the_idle_streams() -> None:
    assert idle_allowed(1_000_000) == IDLE
    assert idle_allowed(20_000) == IDLE
    assert 0 < idle_allowed(8192) < 8192 - ACTIVE
    assert idle_allowed(1024) == 0


def test_idle_streams_are_silent_for_longer_than_the_active_ones_go_on() -> None:
    assert ACTIVE_LOAD.pace is not None
    idle = idle_load(5)
    assert idle.stagger_s + ACTIVE_LOAD.stagger_s + ACTIVE_LOAD.pace.whole_s < SILENCE_MS / 1000
    assert idle.seconds > SILENCE_MS / 1000


def test_failures_and_a_low_limit_are_told() -> None:
    result = Result(
        requests=90,
        tokens=180,
        unfinished=3,
        failures={"status 503": 7},
        wall_s=1,
        cpu_s=1,
        first=spread(2),
        gap=None,
        whole=None,
    )
    crowd = Crowd(
        idle_asked=100,
        limit=4096,
        idle=result,
        active=result,
        health=None,
        health_failures=2,
        pss_bytes=(30_000_000, 20_000_000),
        open_files=250,
    )
    shown = text(crowd)
    assert "idle: 7 times: status 503" in shown
    assert "30.0, 20.0 MB PSS, 250 open files" in shown
    assert "/health: p50 - ms, p99 - ms, 2 failed" in shown
    assert "only 100 idle streams: the limit on open files is 4,096 (ulimit -Hn)" in shown
