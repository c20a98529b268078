"""What POST of /admin/capture accepts."""

import orjson
import pytest

from berth.errors import InvalidRequestError
from berth.ipc.capture import Capture, CaptureAction, Only
from berth.router.server.captures import wanted_of

NOW = 1000.0


def test_nothing_is_ten_minutes_of_everything() -> None:
    for body in (b"", b"{}"):
        wanted = wanted_of(body, NOW)
        assert (wanted.action, wanted.capture) == (CaptureAction.START, Capture(ends=NOW + 600))


def test_fields_are_those_of_the_command() -> None:
    fields = {"for_s": 60, "model": "chat", "key": "ci", "only": "slow:2s", "max": 5}
    expected = Capture(ends=NOW + 60, model="chat", key="ci", only=Only.SLOW, slow_s=2.0, most=5)
    assert wanted_of(orjson.dumps(fields), NOW).capture == expected


def test_no_time_ends_it() -> None:
    assert wanted_of(b'{"for_s": 0}', NOW).action is CaptureAction.END


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"minutes": 5}', b'{"for_s": "x"}', b'{"only": "some"}', b"[" * 100_000, b"\xff"]
)
def test_anything_else_is_refused_with_an_example(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="for_s"):
        wanted_of(body, NOW)
