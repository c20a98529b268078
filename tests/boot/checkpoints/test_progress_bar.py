"""Progress lines, with a fake clock."""

import io

import pytest

from berth.boot.checkpoints.progress_bar import ProgressBar, amount
from berth.control.logs import load_progress


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
    bar = ProgressBar("Downloading org/chat", out, clock=clock)
    bar.show(0, 4_000_000_000)
    bar.show(1_000_000_000, 4_000_000_000)
    clock.now += 10
    bar.show(2_000_000_000, 4_000_000_000)
    bar.show(3_000_000_000, 4_000_000_000)
    clock.now += 10
    bar.show(2_000_000_001, 4_000_000_000)
    bar.finish(4_000_000_000)
    assert out.getvalue().splitlines() == [
        "Downloading org/chat:   0%|          | 0.00/4.00G [00:00<?, ?B/s]",
        "Downloading org/chat:  50%|#####     | 2.00G/4.00G [00:10<00:10, 200MB/s]",
        "Downloading org/chat: 100%|##########| 4.00G/4.00G [00:20<00:00, 200MB/s]",
    ]


def test_control_reads_every_line_as_a_download() -> None:
    out, clock = io.StringIO(), Clock()
    bar = ProgressBar("Downloading org/chat", out, clock=clock)
    bar.show(482_000_000, 3_950_000_000)
    [line] = out.getvalue().splitlines()
    found = load_progress.parse_bar(line)
    assert found is not None
    assert (found.what, found.percent) == ("Downloading org/chat", 12)
    progress = load_progress.advance(load_progress.Tracker(), line).progress
    assert (progress.phase, progress.percent) == ("download", 12.2)


def test_shows_100_percent_only_when_finished() -> None:
    out = io.StringIO()
    ProgressBar("x", out).show(5, 5)
    assert "x:  99%|" in out.getvalue()


def test_terminal_line_is_rewritten() -> None:
    out, clock = Terminal(), Clock()
    bar = ProgressBar("x", out, clock=clock)
    bar.show(0, 100)
    bar.show(10, 100)
    clock.now += 1
    bar.show(20, 100)
    bar.report("warning")
    bar.finish(100)
    lines = out.getvalue().split("\r\x1b[K")
    assert [line.partition("|")[0] for line in lines] == ["", "x:   0%", "x:  20%", "warning\n", "x: 100%"]
    assert out.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.00B"), (999, "999B"), (1000, "1.00kB"), (3_954_000_000, "3.95GB"), (999_600_000, "1.00GB")],
)
def test_amounts_have_three_digits(size: int, text: str) -> None:
    assert amount(size) == text
