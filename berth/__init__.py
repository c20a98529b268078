"""Berth: one GPU server, one dependable model endpoint.

boot runs once and turns environment variables into a Plan; control and router run for ever; apis and engines
translate; plan, state and canonical are the three contracts that hold them together. cli is the way in.
"""

__version__ = "0.1.0"
