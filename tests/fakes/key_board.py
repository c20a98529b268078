"""What workers count for clients, next to a scoreboard of a test."""

from pathlib import Path

from berth.ipc.key_counters import Shape
from berth.plan import Plan
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.shared_counters import Scoreboard


def key_board(board: Scoreboard, plan: Plan, folder: Path | None = None) -> KeyBoard:
    """`folder`: of the file, where it is not the plan's run directory."""
    return KeyBoard((folder or Path(plan.paths.run_dir)) / "key-counters", Shape.of(plan), board)
