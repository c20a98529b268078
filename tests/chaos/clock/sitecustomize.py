"""Python runs this when it starts: a wall clock that stands apart from the true one by as many seconds as the file in
STEPPED_CLOCK says, and can be stepped under a program that runs. time.monotonic is as ever.
"""

import os
import time
from pathlib import Path

_true_time = time.time
_true_time_ns = time.time_ns
_file = os.environ.get("STEPPED_CLOCK", "")


def _step_s() -> float:
    try:
        return float(Path(_file).read_text())
    except (OSError, ValueError):  # not there, or just being written
        return 0.0


if _file:
    time.time = lambda: _true_time() + _step_s()
    time.time_ns = lambda: _true_time_ns() + int(_step_s() * 1e9)
