"""Writers never block, and lost lines are counted."""

import os
import pty
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.foreground.stdout_writer import StdoutWriter


def lost(lines: int) -> str:
    return f"lost {lines}\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def alive(output: StdoutWriter) -> bool:
    """Whether it may still write."""
    return output._thread.is_alive()


def read(reader: int, until: bytes) -> bytes:
    text = b""
    while not text.endswith(until):
        text += os.read(reader, 65536)
    return text


def test_writes_lines_in_order(pipe: tuple[int, int]) -> None:
    output = StdoutWriter(pipe[1], lost)
    for text in ("one\n", "", "two\nthree\n"):
        output.put(text)
    output.close()
    assert os.read(pipe[0], 100) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_never_blocks_on_a_stalled_reader_and_counts_lost_lines(pipe: tuple[int, int], *, blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    output = StdoutWriter(pipe[1], lost, buffer_bytes=200_000)
    for number in range(1000):
        output.put(f"{number} {'x' * 1000}\n")
    closing = threading.Thread(target=output.close, args=(30,))
    closing.start()
    text = b""
    while kept(text) + lost_lines(text) < 1000:
        text += os.read(pipe[0], 65536)
    closing.join()
    assert kept(text) + lost_lines(text) == 1000
    assert kept(text) >= 190
    assert lost_lines(text)


def kept(text: bytes) -> int:
    return len(re.findall(rb"(?m)^\d+ x{1000}$", text))


def lost_lines(text: bytes) -> int:
    return sum(map(int, re.findall(rb"(?m)^lost (\d+)$", text)))


def test_reports_lost_lines_at_the_end(pipe: tuple[int, int]) -> None:
    output = StdoutWriter(pipe[1], lost, buffer_bytes=5)
    output.put("too long\nby far\n")
    output.close()
    assert os.read(pipe[0], 100) == b"lost 2\n"


def test_reports_lost_lines_before_the_next_line(pipe: tuple[int, int]) -> None:
    output = StdoutWriter(pipe[1], lost, buffer_bytes=10)
    output.put("too long for it\n")
    output.put("short\n")
    output.close()
    assert os.read(pipe[0], 100) == b"lost 1\nshort\n"


def test_ignores_a_closed_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = StdoutWriter(writer, lost)
    output.put("one\n")
    output.put("two\n")
    output.close()
    os.close(writer)
    assert not alive(output)


def test_full_disk_loses_lines_but_does_not_join_them(tmp_path: Path) -> None:
    class Full(StdoutWriter):
        room = 5

        def write_once(self, data: bytes) -> bytes:
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


def test_close_has_a_timeout(pipe: tuple[int, int]) -> None:
    output = StdoutWriter(pipe[1], lost)
    output.put("x" * 10**6)
    output.close(timeout_s=0.01)
    left = 10**6
    while left:  # else it would continue to write, to the next file with this descriptor
        left -= len(os.read(pipe[0], 65536))
    output.close()
    assert not alive(output)


def test_writes_to_a_tty() -> None:
    screen, keyboard = pty.openpty()
    output = StdoutWriter(keyboard, lost)
    output.put("one\n")
    output.close()
    assert os.read(screen, 100) == b"one\r\n"
    os.close(screen)
    os.close(keyboard)
