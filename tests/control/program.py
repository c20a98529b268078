"""`berth control` with short intervals: program.py RUN_DIR."""

import sys

from berth.control.main import serve
from tests.control.harness import FAST

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], FAST))
