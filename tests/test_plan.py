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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", ""])
def test_programs_of_this_host_reach_what_listens_on_all_addresses(host: str) -> None:
    listen = Listen(host=host, port=8000, workers=1)
    assert listen.client_url("127.0.0.1") == "http://127.0.0.1:8000"
    assert listen.client_url("localhost") == "http://localhost:8000"


@pytest.mark.parametrize(("host", "shown"), [("10.0.0.5", "10.0.0.5"), ("fd00::5", "[fd00::5]")])
def test_what_listens_on_one_address_is_reached_there(host: str, shown: str) -> None:
    listen = Listen(host=host, port=8000, workers=1, tls_cert="cert.pem")
    assert listen.client_url("localhost") == listen.url() == f"https://{shown}:8000"


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
