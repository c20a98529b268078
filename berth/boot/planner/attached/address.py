"""Where an attached server is, and what is wanted there."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Of one server."""

    url: str  # without the path of its API
    api_paths: tuple[str, ...]  # where its API may be
    name: str  # of the model that is wanted there
    api_key: str | None = field(default=None, repr=False)
