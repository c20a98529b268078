"""What workers count for clients, next to a scoreboard of a test."""

from dataclasses import replace
from pathlib import Path

from berth.key_counters import Shape
from berth.plan import Plan
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.shared_counters import Scoreboard

SLOTS = 10  # of clients


def key_board(board: Scoreboard, plan: Plan, folder: Path | None = None) -> KeyBoard:
    """`folder`: of the file, where it is not the plan's run directory."""
    shape = replace(Shape.of(plan), slots=SLOTS)
    return KeyBoard((folder or Path(plan.paths.run_dir)) / "key-counters", shape, board)
