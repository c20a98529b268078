"""Keys of a real terminal."""

import os
import pty
import termios
from collections.abc import Iterator
from contextlib import suppress

import pytest

from berth.top.keyboard import Keyboard

Terminal = tuple[int, int]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (b"q", "q"),
        (b"?", "?"),
        (b"\033[A", "up"),
        (b"\033OB", "down"),
        (b"\033[5~", ""),
        (b"\033", "\033"),
        (b"\xff", "\ufffd"),
    ],
)
def test_reads_a_key_without_enter(terminal: Terminal, typed: bytes, key: str) -> None:
    with Keyboard(terminal[1]) as keyboard:
        os.write(terminal[0], typed)
        assert keyboard.read(5) == key


def test_reads_keys_that_come_together(terminal: Terminal) -> None:
    with Keyboard(terminal[1]) as keyboard:
        os.write(terminal[0], b"\033[B\033[Bl\033[1;5Cq")
        assert [keyboard.read(5) for _ in range(5)] == ["down", "down", "l", "", "q"]


def test_returns_after_the_timeout(terminal: Terminal) -> None:
    with Keyboard(terminal[1]) as keyboard:
        assert keyboard.read(0.01) == ""


def test_restores_the_terminal(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal[1])
    with suppress(RuntimeError), Keyboard(terminal[1]):
        assert termios.tcgetattr(terminal[1]) != before
        raise RuntimeError
    assert termios.tcgetattr(terminal[1]) == before


def test_ends_with_its_terminal() -> None:
    ours, theirs = pty.openpty()
    keyboard = Keyboard(theirs)
    os.close(ours)
    assert keyboard.read(5) is None
    os.close(theirs)
    end, other = os.pipe()
    os.close(other)
    assert Keyboard(end).read(5) is None
    os.close(end)
