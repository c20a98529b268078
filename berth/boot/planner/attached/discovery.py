"""Asks attached servers what they are, while the plan is made, and by GET only."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from berth.boot.planner.attached.address import Address
from berth.dialects.attached.detection import Discovery

_AT_ONCE = 16


def unasked(addresses: Sequence[Address]) -> list[Discovery]:
    """What is known without asking."""
    return [Discovery(reached=False, api_path=address.api_paths[0]) for address in addresses]


def discover_all(addresses: Sequence[Address]) -> list[Discovery]:
    """In their order, all at the same time."""
    if not addresses:
        return []
    # httpx takes as long to import as the rest of boot, and most plans have no attached server.
    from berth.boot.planner.attached.requests import discover  # noqa: PLC0415

    with ThreadPoolExecutor(min(len(addresses), _AT_ONCE)) as pool:
        return list(pool.map(discover, addresses))
