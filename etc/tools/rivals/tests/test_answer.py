import pytest

from etc.tools.rivals import frames
from etc.tools.rivals.answer import Answer
from etc.tools.rivals.apis import APIS

STREAM = frames.START + frames.ROLE + b"".join(frames.TOKENS[:5]) + frames.FINISH + frames.DONE + frames.END


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_stream_is_read_whatever_its_packets_are(size: int) -> None:
    answer = Answer()
    counted = sum(answer.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size))
    assert (answer.status, answer.tokens, counted) == (200, 5, 5)
    assert answer.complete
    assert answer.done


OLLAMA = b'{"message":{"content":" toka"},"done":false}\n{"message":{"content":" tokb"},"done":false}\n{"done":true}\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: %d\r\n\r\n" % len(OLLAMA)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_short_stream_may_come_with_its_length(size: int) -> None:
    answer, data = Answer(APIS["ollama"]), HEAD + OLLAMA
    for at in range(0, len(data), size):
        assert not answer.complete
        answer.feed(data[at : at + size])
    assert (answer.tokens, answer.done, answer.complete) == (2, True, True)


def test_what_is_said_again_at_the_end_is_not_counted() -> None:
    frames_ = (
        b'data: {"delta":" toka"}\n\ndata: {"text":" toka"}\n\nevent: response.completed\ndata: {"text":" toka"}\n\n'
    )
    answer = Answer(APIS["responses"])
    answer.feed(frames.START + b"%x\r\n%b\r\n" % (len(frames_), frames_) + b"0\r\n\r\n")
    assert (answer.tokens, answer.done, answer.complete) == (1, True, True)


def test_a_stream_is_not_complete_before_its_last_byte() -> None:
    answer = Answer()
    answer.feed(STREAM[:-1])
    assert not answer.complete


def test_a_stream_without_done_shows_it() -> None:
    answer = Answer()
    answer.feed(STREAM.replace(frames.DONE, b""))
    assert answer.complete
    assert not answer.done


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_a_whole_answer_ends_at_its_length(size: int) -> None:
    answer = Answer()
    for at in range(0, len(frames.SHORT_ANSWER), size):
        assert not answer.complete
        answer.feed(frames.SHORT_ANSWER[at : at + size])
    assert answer.complete


def test_an_empty_body_is_complete_at_once() -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert answer.complete
    assert answer.status == 503
    assert answer.closes


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="without a length"):
        Answer().feed(b"HTTP/1.1 200 OK\r\n\r\n")
