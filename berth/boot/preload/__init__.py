"""Engines that start from a process which has imported them already: it forks, instead of importing for each start.

server   that process. It runs in the engine's own interpreter, from this one file
client   `berth exec`, which asks it for an engine and stays in front of that one as if it were its own process
"""
