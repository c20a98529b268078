"""What control sees of its host."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.watches.host import HostWatch
from berth.host import cgroup
from berth.plan import Plan
from tests.fakes import certificates
from tests.fakes.router import make_plan, replica


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(str(tmp_path), [replica("m-a", "http://127.0.0.1:1")])
    return replace(made, paths=replace(made.paths, data_dir=str(tmp_path)))


def install(plan: Plan, tmp_path: Path, *, days: int) -> Plan:
    """The router's copy of a new certificate."""
    cert, key = certificates.make(tmp_path, days=days)
    plan.paths.tls.write_bytes(Path(key).read_bytes() + Path(cert).read_bytes())
    return replace(plan, listen=replace(plan.listen, tls_cert=cert, tls_key=key))


def test_the_disk_and_the_memory(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_left_of", lambda: (5, 100))
    state = HostWatch(plan).read()
    assert state.data_dir_total_bytes is not None
    assert 0 < (state.data_dir_free_bytes or 0) <= state.data_dir_total_bytes
    assert (state.memory_left_bytes, state.memory_limit_bytes) == (5, 100)
    assert (state.tls_ends, state.tls_problem) == (None, "")


def test_a_disk_that_is_not_there_is_unknown(plan: Plan) -> None:
    state = HostWatch(replace(plan, paths=replace(plan.paths, data_dir="/nowhere/at all"))).read()
    assert (state.data_dir_free_bytes, state.data_dir_total_bytes) == (None, None)


def test_a_certificate_is_read_again_when_it_is_another(plan: Plan, tmp_path: Path) -> None:
    plan = install(plan, tmp_path, days=30)
    watch = HostWatch(plan)
    first, same = watch.read().tls_ends, watch.read().tls_ends
    assert first is not None
    assert same == first
    install(plan, tmp_path, days=60)
    os.utime(plan.paths.tls, ns=(1, 1))
    assert (watch.read().tls_ends or 0) > first


def test_a_certificate_that_has_ended_before_control_began(plan: Plan, tmp_path: Path) -> None:
    state = HostWatch(install(plan, tmp_path, days=-1)).read()
    assert (state.tls_ends, state.tls_problem) == (None, "certificate has expired")


def test_no_copy_of_the_certificate_yet(plan: Plan) -> None:
    state = HostWatch(replace(plan, listen=replace(plan.listen, tls_cert="/c.pem", tls_key="/k.pem"))).read()
    assert (state.tls_ends, state.tls_problem) == (None, "")
