"""Berth: one GPU server, one dependable model endpoint.

boot runs once and turns environment variables into a Plan; control and router run for ever; apis and engines
translate; plan, state and canonical are the three contracts that hold them together, ipc is what the programs tell
each other meanwhile, and records are what outlives them. cli is the way in.
"""

from berth._version import __version__

__all__ = ["__version__"]
