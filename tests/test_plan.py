"""The files that boot writes for other programs, read back."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.errors import ControlError
from berth.plan import Keys, Listen, read_keys, read_plan
from tests.fakes.machine import gpu
from tests.fakes.plans import make_plan

BROKEN = (None, b"", b"{", b"\xff", b'{"version": 99}')


def test_reads_the_plan_and_the_keys_of_a_run_directory(tmp_path: Path) -> None:
    plan, keys = make_plan(str(tmp_path)), Keys(upstream_keys={"chat-sim": "abc"})
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(keys.to_json())
    assert (read_plan(str(tmp_path)), read_keys(str(tmp_path))) == (plan, keys)


def test_each_worker_may_be_replaced_before_it_ends() -> None:
    assert [Listen(host="::", port=1, workers=workers).most_workers for workers in (1, 4)] == [3, 9]


def test_an_unknown_capability_counts_as_new() -> None:
    found = [replace(gpu(), compute_capability=text).capability for text in ("8.6", "12.0", "", "9.x")]
    assert found == [(8, 6), (12, 0), (99, 0), (99, 0)]


@pytest.mark.parametrize("content", BROKEN)
def test_unreadable_plan_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ControlError, match=r"plan.json' cannot be read: .*\. Start Berth, or set BERTH_RUN_DIR to"):
        read_plan(str(tmp_path))


@pytest.mark.parametrize("content", BROKEN[:-1])
def test_unreadable_keys_say_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(ControlError, match=r"keys.json' cannot be read: .*\. Start Berth"):
        read_keys(str(tmp_path))
