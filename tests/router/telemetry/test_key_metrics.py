from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from berth.ipc.key_counters import CHARGED, IN_FLIGHT, KEY_WIDTH, PROMPT, RATE_LIMITED, SUCCEEDED, USE_WIDTH
from berth.plan import ApiKey, Keys
from berth.router.telemetry.key_metrics import key_metrics
from berth.router.telemetry.metrics import Meter, _Snapshot, layout
from berth.router.telemetry.shared_counters import Scoreboard
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, replica


@pytest.mark.parametrize(("named", "alice", "bob"), [(True, "alice", "bob"), (False, "1", "2")])
def test_metrics_have_the_names_of_the_keys(tmp_path: Path, *, named: bool, alice: str, bob: str) -> None:
    plan = make_plan(str(tmp_path), [replica("m-a", "http://127.0.0.1:1"), replica("n-a", "http://127.0.0.1:1")])
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    board = Scoreboard(plan.paths.scoreboard, layout(plan))
    keys = Meter(board, key_board(board, plan)).keys
    for slot, route, place, number in ((0, 0, SUCCEEDED, 2), (1, 1, RATE_LIMITED, 3), (1, 1, PROMPT, 70), (2, 0, 0, 1)):
        keys.row[keys.shape.uses + (slot * keys.shape.routes + route) * USE_WIDTH + place] = number
    keys.limited(1, "day")
    keys.waited(1, 0.5)
    keys.row[KEY_WIDTH + IN_FLIGHT] = 4
    keys.row[KEY_WIDTH + CHARGED] = 150
    known = Keys(api_keys=(ApiKey(name="alice", slot=1, tokens_per_day=200, day_from=50.0),), retired={"bob": 2})

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(tuple(key_metrics(replace(plan, metrics_key_labels=named), known, keys))))
    found = {
        (sample.name.removeprefix("berth_key_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }

    assert {name: value for name, value in found.items() if value} == {
        ("requests_total", "anonymous", "m", "2xx"): 2,
        ("requests_total", alice, "n", "429"): 3,
        ("requests_total", bob, "m", "2xx"): 1,
        ("tokens_total", alice, "prompt", "n"): 70,
        ("limited_total", alice, "day"): 1,
        ("queue_wait_seconds_count", alice): 1,
        ("queue_wait_seconds_sum", alice): 0.5,
        ("requests_in_flight", alice): 4,
        ("budget_used_ratio", alice, "day"): 0.5,
    }
    board.close()
