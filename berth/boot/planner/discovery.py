"""Attached servers that are asked what they are, while the plan is made (see discovery_requests)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from berth.dialects.attached.detection import Discovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Of one server."""

    url: str  # without the path of its API
    api_paths: tuple[str, ...]  # where its API may be
    name: str  # of the model that is wanted there
    api_key: str | None = field(default=None, repr=False)


def unasked(addresses: Sequence[Address]) -> list[Discovery]:
    """What is known without asking."""
    return [Discovery(reached=False, api_path=address.api_paths[0]) for address in addresses]
