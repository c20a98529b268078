"""Berth: one GPU server, one dependable model endpoint.

boot runs once and turns environment variables into a Plan; control and router run for ever; apis and engines
translate; plan, state and canonical are the three contracts that hold them together, ipc is what the programs exchange
meanwhile, and records are what outlives them. cli is the way in.
"""

import sys

from berth._version import __version__

__all__ = ["__version__"]

# httpx imports its command line wherever rich and click are installed: 97 modules, 6 MB and 60 ms at each start.
# A module that is None is not imported (docs.python.org, "The module cache"), and httpx does without.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
