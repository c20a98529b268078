"""Writers never wait; what is lost is told."""

import os
import pty
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.foreground.stdout_writer import StandardOutput


def lost(lines: int) -> str:
    return f"lost {lines}\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def alive(output: StandardOutput) -> bool:
    """Whether it may still write."""
    return output._thread.is_alive()


def read(reader: int, until: bytes) -> bytes:
    text = b""
    while not text.endswith(until):
        text += os.read(reader, 65536)
    return text


def test_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    output = StandardOutput(pipe[1], lost)
    for text in ("one\n", "", "two\nthree\n"):
        output.put(text)
    output.close()
    assert os.read(pipe[0], 100) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader_that_reads_nothing_and_what_is_lost_is_told(
    pipe: tuple[int, int], *, blocking: bool
) -> None:
    os.set_blocking(pipe[1], blocking)
    output = StandardOutput(pipe[1], lost, kept_bytes=200_000)
    for number in range(1000):
        output.put(f"{number} {'x' * 1000}\n")
    closing = threading.Thread(target=output.close, args=(30,))
    closing.start()
    text = b""
    while kept(text) + told_lost(text) < 1000:
        text += os.read(pipe[0], 65536)
    closing.join()
    assert kept(text) + told_lost(text) == 1000
    assert kept(text) >= 190
    assert told_lost(text)


def kept(text: bytes) -> int:
    return len(re.findall(rb"(?m)^\d+ x{1000}$", text))


def told_lost(text: bytes) -> int:
    return sum(map(int, re.findall(rb"(?m)^lost (\d+)$", text)))


def test_what_was_lost_last_is_told_at_the_end(pipe: tuple[int, int]) -> None:
    output = StandardOutput(pipe[1], lost, kept_bytes=5)
    output.put("too long\nby far\n")
    output.close()
    assert os.read(pipe[0], 100) == b"lost 2\n"


def test_what_was_lost_is_told_before_what_comes_next(pipe: tuple[int, int]) -> None:
    output = StandardOutput(pipe[1], lost, kept_bytes=10)
    output.put("too long for it\n")
    output.put("short\n")
    output.close()
    assert os.read(pipe[0], 100) == b"lost 1\nshort\n"


def test_a_reader_that_is_gone_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = StandardOutput(writer, lost)
    output.put("one\n")
    output.put("two\n")
    output.close()
    os.close(writer)
    assert not alive(output)


def test_a_full_disk_loses_lines_and_the_next_one_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    class Full(StandardOutput):
        room = 5

        def _written(self, data: bytes) -> bytes:
            if not self.room:
                self.room = 100
                raise OSError(28, "No space left on device")
            part, self.room = data[: self.room], max(0, self.room - len(data))
            os.write(self._descriptor, part)
            return data[len(part) :]

    with (tmp_path / "output").open("wb") as file:
        output = Full(file.fileno(), lost)
        output.put("one line\n")
        output.put("another\n")
        output.put("third\n")
        output.close()
    assert (tmp_path / "output").read_bytes() == b"one l\nanother\nthird\n"


def test_the_end_does_not_wait_for_ever(pipe: tuple[int, int]) -> None:
    output = StandardOutput(pipe[1], lost)
    output.put("x" * 10**6)
    output.close(timeout_s=0.01)
    left = 10**6
    while left:  # else it would go on writing, to whatever gets this descriptor next
        left -= len(os.read(pipe[0], 65536))
    output.close()
    assert not alive(output)


def test_a_terminal_will_do() -> None:
    screen, keyboard = pty.openpty()
    output = StandardOutput(keyboard, lost)
    output.put("one\n")
    output.close()
    assert os.read(screen, 100) == b"one\r\n"
    os.close(screen)
    os.close(keyboard)
