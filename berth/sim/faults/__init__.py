"""Faults on demand: the table of all of them, and those that are active now."""
