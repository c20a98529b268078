"""Sizes in the units that people read."""

GIB = 2**30
MIB = 2**20


def size(count: int) -> str:
    """In GiB; small ones in MiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
