"""What the set-up tells: one line per phase with the seconds since `make` began, and failures that say what to do."""

import os
import time


class SetupError(Exception):
    """Something on this machine is missing; the message names the next step."""


def say(text: str) -> None:
    started = int(os.environ.get("SETUP_STARTED") or time.time())
    print(f"[{int(time.time()) - started:3d}s] {text}", flush=True)
