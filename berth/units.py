"""Sizes and dates as people read them."""

from datetime import UTC, datetime

GIB = 2**30
MIB = 2**20


def size(count: int) -> str:
    """In GiB; small ones in MiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def date(moment: float) -> str:
    """2026-11-29, in UTC."""
    return datetime.fromtimestamp(moment, tz=UTC).date().isoformat()
