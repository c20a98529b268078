"""The stored responses of the Responses API and the interface of their store. No I/O."""

from dataclasses import dataclass, field
from typing import Protocol

from berth.apis.base import Headers
from berth.canonical import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response and the conversation before it: one record is enough to continue a conversation of any length."""

    response: Json  # as sent to the client
    input: list[Json]  # the items before its output, those of earlier turns included, each with an id
    size_bytes: int = field(default=0, compare=False)  # as it was read

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def items(self) -> list[Json]:
        """The conversation, the response's own output included."""
        return [*self.input, *self.response["output"]]


class ResponseStore(Protocol):
    """Keeps responses for a limited time. Its methods never raise: what cannot be written or read is missing."""

    def owner(self, headers: Headers) -> str:
        """The owner of a request, by its API key. Responses of other owners are not found."""
        ...

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """None for an unknown, deleted or evicted response, and for one of another owner."""
        ...

    def put(self, owner: str, stored: StoredResponse) -> None:
        """Every worker finds the response after the return."""
        ...

    def delete(self, owner: str, response_id: str) -> bool:
        """False where there was none."""
        ...
