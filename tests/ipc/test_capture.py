"""Which requests a capture wants, and how one is shown."""

import shlex

import pytest

from berth.ipc.capture import Capture, Exchange, Message, Only, as_curl, parse_only


@pytest.mark.parametrize(
    ("only", "status", "failed", "duration_s", "wanted"),
    [
        (Only.ALL, 200, False, 0.1, True),
        (Only.ERRORS, 200, False, 9.0, False),
        (Only.ERRORS, 404, False, 0.1, True),
        (Only.ERRORS, 200, True, 0.1, True),
        (Only.SLOW, 500, True, 4.9, False),
        (Only.SLOW, 200, False, 5.0, True),
    ],
)
def test_wants(only: Only, status: int, *, failed: bool, duration_s: float, wanted: bool) -> None:
    capture = Capture(ends=1.0, only=only, slow_s=5.0)
    assert capture.wants(status=status, failed=failed, duration_s=duration_s) is wanted


def test_is_shown_with_its_limits() -> None:
    assert Capture(ends=1.0).shown() == "all max=200"
    slow = Capture(ends=1.0, only=Only.SLOW, slow_s=2.5, model="chat", key="ci", most=3)
    assert slow.shown() == "slow:2.5s model=chat key=ci max=3"


def test_only_is_read_as_it_is_typed() -> None:
    typed = ("all", "errors", "slow:5s", "slow:0.5")
    assert [parse_only(text) for text in typed] == [
        (Only.ALL, 0.0),
        (Only.ERRORS, 0.0),
        (Only.SLOW, 5.0),
        (Only.SLOW, 0.5),
    ]


@pytest.mark.parametrize("text", ["", "some", "slow", "slow:", "slow:x", "all:5s", "errors:1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none of all, errors and slow:5s"):
        parse_only(text)


def test_as_a_command_that_a_shell_reads_again() -> None:
    body = """{"content": "it's 5 o'clock"}"""
    headers = (("content-type", "application/json"), ("x-api-key", "***"), ("user-agent", "x"), ("host", "box"))
    request = Message(line="POST /v1/messages", headers=headers, body=body)
    exchange = Exchange(id="1", at=1.0, duration_s=1.0, model="chat", key="ci", status=200, request=request)

    words = shlex.split(as_curl(exchange, "http://localhost:8000").replace("\\\n", ""))

    assert words == [
        *("curl", "-sN", "-X", "POST", "http://localhost:8000/v1/messages"),
        *("-H", "content-type: application/json", "-H", "x-api-key: ***", "--data-raw", body),
    ]
