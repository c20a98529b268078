"""What control keeps of captured requests, for how long, and who is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.control.operations.captures import Captures
from berth.ipc import capture
from berth.ipc.capture import Capture, CaptureAction, Captured, CaptureRequest, Exchange, Message, Only
from berth.ipc.operations import DenialCode, Reply
from berth.plan import Keys, Plan
from tests.fakes.api_keys import api_keys
from tests.fakes.router import make_plan, replica, route

NOW = 1_000_000.0
WANTED = Capture(ends=NOW + 600)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Box:
    def __init__(self, plan: Plan) -> None:
        self.clock = Clock()
        self.ends: list[str] = []
        self.captures = Captures(plan, lambda *args: self.ends.append(args[3]["reason"]), self.clock)

    def ask(self, action: CaptureAction, **fields: Any) -> Reply:
        return self.captures.ask(CaptureRequest(action=action, **fields))

    def start(self, **fields: Any) -> Reply:
        return self.ask(CaptureAction.START, capture=replace(WANTED, **fields))

    def add(self, number: int, body: str = "hello") -> None:
        self.ask(CaptureAction.ADD, exchange=exchange(number, body))

    def listed(self) -> Captured:
        found = self.ask(CaptureAction.LIST).captured
        assert found is not None
        return found

    def ids(self) -> list[str]:
        return [one.id for one in self.listed().exchanges]


def exchange(number: int, body: str) -> Exchange:
    request = Message(line="POST /v1/chat/completions", body=body)
    return Exchange(
        id=str(number),
        at=NOW,
        duration_s=1.0,
        model="chat",
        key="anonymous",
        status=200,
        request=request,
        response=request,
    )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    plan = make_plan(
        str(tmp_path), [replica("chat-a", "http://127.0.0.1:1")], [route("chat", ["chat-a"], aliases=("gpt-4",))]
    )
    plan.paths.keys.write_bytes(Keys(api_keys=api_keys("one-key")).to_json())
    return Box(plan)


def test_nothing_is_kept_before_a_capture_and_after_its_end(box: Box) -> None:
    box.add(1)
    box.start()
    box.add(2)
    reply = box.ask(CaptureAction.END)
    box.add(3)

    assert reply.captured is not None
    assert (reply.captured.current, box.ids(), box.ends) == (None, ["2"], [])  # the end is in the audit as a request


def test_an_alias_is_its_model(box: Box) -> None:
    box.start(model="gpt-4", key="key-1")
    assert box.captures.current is not None
    assert box.captures.current.model == "chat"


def test_a_capture_ends_by_itself_and_is_forgotten(box: Box) -> None:
    box.start()
    box.add(1)
    box.clock.now = NOW + 600
    box.captures.poll()
    assert (box.listed().current, box.ids(), box.ends) == (None, ["1"], ["its time is over"])

    box.clock.now += capture.KEPT_S - 1
    assert box.ids() == ["1"]
    box.clock.now += 1
    assert box.listed() == Captured()


def test_a_capture_ends_with_its_last_request(box: Box) -> None:
    box.start(most=2)
    for number in range(4):
        box.add(number)
    assert (box.ids(), box.captures.current) == (["0", "1"], None)
    assert box.ends == ["it has as many requests as were wanted"]


def test_the_newest_requests_are_kept_within_their_number_and_size(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in range(3):  # of one capture after another
        box.start()
        for number in range(100):
            box.add(100 * start + number)
    assert box.ids() == [str(number) for number in range(100, 300)]

    size = len(msgspec.json.encode(exchange(300, "x" * 9000)))
    monkeypatch.setattr("berth.control.operations.captures.KEPT_BYTES", 3 * size)
    for number in range(300, 310):
        box.add(number, "x" * 9000)
    assert (box.ids(), box.listed().held_bytes) == (["307", "308", "309"], 3 * size)


def test_a_list_has_no_texts_and_one_is_shown_whole(box: Box) -> None:
    box.start()
    box.add(1)
    (listed,) = box.listed().exchanges
    shown = box.ask(CaptureAction.SHOW, id="1").captured
    assert (listed.request.body, listed.response) == ("", None)
    assert shown is not None
    assert shown.exchanges == (exchange(1, "hello"),)

    unknown = box.ask(CaptureAction.SHOW, id="2").denial
    assert unknown is not None
    assert (unknown.code, "berth capture list" in unknown.message) == (DenialCode.UNKNOWN_CAPTURE, True)


def test_clear_ends_and_forgets(box: Box) -> None:
    box.start()
    box.add(1)
    assert box.ask(CaptureAction.CLEAR).captured == Captured()


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"ends": NOW}, DenialCode.INVALID, "up to 60 minutes"),
        ({"ends": NOW + 3602}, DenialCode.INVALID, "up to 60 minutes"),
        ({"most": 0}, DenialCode.INVALID, "1 to 200"),
        ({"most": 201}, DenialCode.INVALID, "1 to 200"),
        ({"only": Only.SLOW}, DenialCode.INVALID, "slow:5s"),
        ({"model": "other"}, DenialCode.UNKNOWN_MODEL, "Models: chat"),
        ({"key": "bob"}, DenialCode.INVALID, "Keys: anonymous, key-1"),
    ],
)
def test_what_cannot_be_captured_is_denied(box: Box, fields: dict[str, Any], code: DenialCode, words: str) -> None:
    denial = box.start(**fields).denial
    assert denial is not None
    assert (denial.code, words in denial.message) == (code, True)
    assert box.captures.current is None


def test_a_request_without_a_capture_is_denied(box: Box, tmp_path: Path) -> None:
    assert box.ask(CaptureAction.START).denial is not None
    (tmp_path / "keys.json").unlink()
    assert box.start(key="key-1").denial is not None
    assert box.ask(CaptureAction.ADD).denial is None
