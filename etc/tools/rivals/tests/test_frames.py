import json

from etc.tools.rivals import frames
from etc.tools.rivals.frames import Pace


def test_the_pace_in_a_message_is_found_again() -> None:
    pace = Pace(tokens=200, first_ms=20, next_ms=30)
    assert Pace.in_request(json.dumps({"messages": [{"content": str(pace)}]}).encode()) == pace


def test_tokens_are_due_one_after_the_other() -> None:
    pace = Pace(tokens=3, first_ms=20, next_ms=50)
    assert [pace.due_s(token) for token in range(3)] == [0.02, 0.07, 0.12]
    assert pace.whole_s == 0.12


def test_the_short_answer_is_as_long_as_it_says() -> None:
    head, _, body = frames.SHORT_ANSWER.partition(b"\r\n\r\n")
    assert len(body) == frames.ANSWER_BYTES
    assert head.endswith(b"content-length: %d" % len(body))
    assert json.loads(body)["object"] == "chat.completion"


def test_each_token_frame_holds_one_token_and_is_one_chunk() -> None:
    for chunk in frames.TOKENS:
        size, _, rest = chunk.partition(b"\r\n")
        assert int(size, 16) == len(rest) - 2
        assert chunk.count(frames.TOKEN) == 1
        assert json.loads(rest.removeprefix(b"data: "))["choices"][0]["delta"]["content"].startswith(" tok")


def test_no_other_frame_holds_one() -> None:
    rest = frames.ROLE + frames.FINISH + frames.USAGE + frames.DONE + frames.END
    assert frames.TOKEN not in rest
