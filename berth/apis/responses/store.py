"""What the Responses API remembers between requests, and what keeps it; no I/O here."""

from dataclasses import dataclass
from typing import Protocol

from berth.apis.base import Headers
from berth.canonical import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response and all that led to it: a conversation goes on from one record, however long it is."""

    response: Json  # as the client got it
    input: list[Json]  # the items before its output, those of earlier turns included, each with an id

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def items(self) -> list[Json]:
        """The conversation, the response's own output included."""
        return [*self.input, *self.response["output"]]


class ResponseStore(Protocol):
    """Keeps responses for a while. Nothing of it raises: what cannot be kept or read is not there."""

    def owner(self, headers: Headers) -> str:
        """Who asks, by the request's key: nobody else finds what is put under that name."""
        ...

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """None where there is none: unknown, deleted, of somebody else, or gone because newer ones took its room."""
        ...

    def put(self, owner: str, stored: StoredResponse) -> None:
        """Findable by every worker from the return on."""
        ...

    def delete(self, owner: str, response_id: str) -> bool:
        """True: it was there."""
        ...
