"""Clients see their own requests, operators all."""

from berth.router.events.request_feed import seen_by

DOCUMENT = {"requests": [{"key": "alice"}, {"key": "ci"}], "skipped": 3, "running": [{"key": "ci"}]}


def test_a_client_sees_its_own() -> None:
    assert seen_by("alice", DOCUMENT) == {"requests": [{"key": "alice"}], "skipped": 3, "running": []}
    assert seen_by("ci", DOCUMENT) == {"requests": [{"key": "ci"}], "skipped": 3, "running": [{"key": "ci"}]}


def test_an_operator_sees_all() -> None:
    assert seen_by("", DOCUMENT) == DOCUMENT
