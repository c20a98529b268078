"""What workers report about the replicas that they use, and when a replica counts as drained."""

import os
from pathlib import Path

import pytest

from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
from berth.ipc.traffic import Report, TrafficReport, is_drained, read_reports, reserve, row_bytes, workers

REPLICAS, MODELS = 3, 2


def test_reads_what_each_worker_wrote(tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    reserve(path, REPLICAS, MODELS, 3)
    for row, load in ((0, 4), (2, 5)):
        report = TrafficReport(path, row, REPLICAS, MODELS)
        report.write(77, 12, 100 + row, [0, load, 1, 7, 8, 9, 5, 6, 3, 2, 1, 0, 1, 0])
        report.close()

    assert read_reports(path, REPLICAS, MODELS) == [
        Report(77, 12, (0, 4, 1), (7, 8, 9), (5, 6), (3, 2, 1), (0, 1, 0), looked_at=100),
        Report(0, 0, (0, 0, 0), (0, 0, 0), (0, 0), (0, 0, 0), (0, 0, 0)),
        Report(77, 12, (0, 5, 1), (7, 8, 9), (5, 6), (3, 2, 1), (0, 1, 0), looked_at=102),
    ]


def test_new_worker_has_not_seen_what_the_last_one_in_its_row_saw(tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    first = TrafficReport(path, 1, REPLICAS, MODELS)  # without space reserved for it: the file grows
    first.write(77, 12, 0, [0] * 8)
    first.close()

    TrafficReport(path, 1, REPLICAS, MODELS).close()

    assert read_reports(path, REPLICAS, MODELS)[1].sequence == 0


def test_rows_of_many_replicas_do_not_share_a_cache_line(tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    for replicas in (1, 6, 7, 100):
        path.unlink(missing_ok=True)
        report = TrafficReport(path, 4, replicas, 1)
        report.write(1, 2, 3, range(2 * replicas + 1))
        report.close()
        assert row_bytes(replicas, 1) % 64 == 0
        assert read_reports(path, replicas, 1)[4].loads == tuple(range(replicas))


def test_no_file_means_no_reports(tmp_path: Path) -> None:
    assert read_reports(tmp_path / "missing", 1, 1) == []


def test_knows_the_live_workers_by_their_heartbeats(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeats", FIRST_WORKER + 1)

    assert workers(tmp_path / "heartbeats") == {1: os.getpid()}

    heartbeat.close()
    assert workers(tmp_path / "heartbeats") == {}


@pytest.mark.parametrize(
    ("reports", "live", "drained"),
    [
        ([], [], True),
        ([Report(9, 5, (0, 0), (), ())], [0], True),
        ([Report(9, 6, (3, 0), (), ())], [0], True),
        ([Report(9, 5, (0, 1), (), ())], [0], False),
        ([Report(9, 4, (0, 0), (), ())], [0], False),
        ([Report(8, 7, (0, 0), (), ())], [0], False),
        ([Report(9, 5, (0, 0), (), ()), Report(9, 4, (0, 1), (), ())], [0], True),
        ([Report(9, 5, (0, 0), (), ()), Report(9, 4, (0, 0), (), ())], [0, 1], False),
        ([Report(9, 5, (0, 0), (), ())], [0, 1], False),
    ],
    ids=[
        *("no worker", "seen", "only others' requests", "a request", "an older state", "the state of another control"),
        *("a dead worker does not count", "each live one does", "one without a row"),
    ],
)
def test_drained_when_every_live_worker_has_seen_it_and_has_no_request(
    reports: list[Report], live: list[int], drained: bool
) -> None:
    assert is_drained(reports, live, 1, control_pid=9, sequence=5) is drained
