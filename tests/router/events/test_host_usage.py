"""What Berth's programs use."""

import os
from pathlib import Path

from berth.ipc.heartbeats import FIRST_WORKER, ROUTER, Heartbeat
from berth.router.events.host_usage import HostUsage


def test_sums_the_programs_that_live(tmp_path: Path) -> None:
    path = tmp_path / "heartbeats"
    usage = HostUsage(path)
    sum(number * number for number in range(300_000))  # some work
    assert usage.document()["rss"] == {"control": 0, "router": 0}

    beats = [Heartbeat(path, ROUTER), Heartbeat(path, FIRST_WORKER)]
    own = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    document = usage.document()
    assert document["cpu"] is None or 0 <= document["cpu"] <= 1
    assert document["rss"]["control"] == 0
    assert 1.5 * own < document["rss"]["router"] < 2.5 * own
    for beat in beats:
        beat.close()
