"""The one exception of the benchmark."""


class BenchError(Exception):
    """Something cannot be measured here; the message says what, and why."""
