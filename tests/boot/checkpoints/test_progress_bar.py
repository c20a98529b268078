"""Progress lines, with a clock that the test turns."""

import io

import pytest

from berth.boot.checkpoints.progress_bar import ProgressBar, amount, clock_text
from berth.control.load_progress import Tracker, advance, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_at_start_steps_and_end() -> None:
    out, clock = io.StringIO(), Clock()
    gauge = ProgressBar("Downloading org/chat", out, clock=clock)
    gauge.show(0, 4_000_000_000)
    gauge.show(1_000_000_000, 4_000_000_000)
    clock.now += 10
    gauge.show(2_000_000_000, 4_000_000_000)
    gauge.show(3_000_000_000, 4_000_000_000)
    clock.now += 10
    gauge.show(2_000_000_001, 4_000_000_000)
    gauge.finish(4_000_000_000)
    assert out.getvalue().splitlines() == [
        "Downloading org/chat:   0%|          | 0/4G [00:00<?, ?B/s]",
        "Downloading org/chat:  50%|#####     | 2G/4G [00:10<00:10, 200MB/s]",
        "Downloading org/chat: 100%|##########| 4G/4G [00:20<00:00, 200MB/s]",
    ]


def test_control_reads_every_line_as_a_download() -> None:
    out, clock = io.StringIO(), Clock()
    gauge = ProgressBar("Downloading org/chat", out, clock=clock)
    gauge.show(482_000_000, 3_950_000_000)
    [line] = out.getvalue().splitlines()
    found = bar(line)
    assert found is not None
    assert (found.what, found.percent) == ("Downloading org/chat", 12)
    progress = advance(Tracker(), line).progress
    assert (progress.phase, progress.percent) == ("download", 12.2)


def test_shows_100_percent_only_when_finished() -> None:
    out = io.StringIO()
    ProgressBar("x", out).show(5, 5)
    assert "x:  99%|" in out.getvalue()


def test_terminal_line_is_rewritten() -> None:
    out, clock = Terminal(), Clock()
    gauge = ProgressBar("x", out, clock=clock)
    gauge.show(0, 100)
    gauge.show(10, 100)
    clock.now += 1
    gauge.show(20, 100)
    gauge.say("trouble")
    gauge.finish(100)
    lines = out.getvalue().split("\r\x1b[K")
    assert [line.partition("|")[0] for line in lines] == ["", "x:   0%", "x:  20%", "trouble\n", "x: 100%"]
    assert out.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (3_954_000_000, "3.95G"), (999_600_000, "1G"), (5e18, "5000P")],
)
def test_amounts_have_three_digits(size: float, text: str) -> None:
    assert amount(int(size)) == text


def test_hours_are_told() -> None:
    assert (clock_text(59.9), clock_text(3723)) == ("00:59", "1:02:03")
