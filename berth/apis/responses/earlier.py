"""What a request takes from stored responses: the conversation that it continues, and single items by their ids.

A reference is a few bytes and may stand for many: so all that is taken counts, with the body, as the body's size does.
Each response is read once, and what is read is bounded in the same way. A stored response holds the items of earlier
turns too: the last references are looked up first, and mostly one response has all items.
"""

from collections.abc import Iterable

from berth import json_text
from berth.apis.openai.fields import formatted
from berth.apis.responses.store import ResponseStore, StoredResponse
from berth.canonical import Json
from berth.errors import InvalidRequestError, TooLargeError


class Earlier:
    def __init__(self, store: ResponseStore, owner: str, *, body_bytes: int, most_bytes: int) -> None:
        self._store = store
        self._owner = owner
        self._body_bytes = body_bytes
        self._most_bytes = most_bytes
        self._responses: dict[str, StoredResponse | None] = {}
        self._items: dict[str, Json] = {}  # of all responses so far, by their ids
        self._sizes: dict[str, int] = {}  # of the items that were taken
        self._read_bytes = 0
        self.taken_bytes = 0

    def continued(self, response_id: str) -> list[Json]:
        """The conversation up to this response. InvalidRequestError if it cannot be continued."""
        found = self._response(response_id)
        if found is None:
            raise InvalidRequestError(
                f"Previous response with id {formatted(response_id)} not found ('previous_response_id'). Berth "
                "keeps recent responses for a limited time, and none with 'store': false. Send all items as "
                "'input' instead.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if found.response["status"] == "failed":
            raise InvalidRequestError(
                f"The previous response {formatted(response_id)} failed: it is incomplete and cannot be continued.",
                param="previous_response_id",
            )
        self._take(found.size_bytes)
        return found.items

    def look_up(self, references: Iterable[tuple[str, str]]) -> None:
        """Items by their ids, each with the id of the response that it is from; the last ones first."""
        for item_id, response_id in references:
            if item_id not in self._items:
                self._response(response_id)

    def item(self, item_id: str) -> Json | None:
        """One of those that were looked up, or of the conversation that is continued."""
        found = self._items.get(item_id)
        if found is not None:
            if item_id not in self._sizes:
                self._sizes[item_id] = len(json_text.dumps(found))
            self._take(self._sizes[item_id])
        return found

    def _response(self, response_id: str) -> StoredResponse | None:
        if response_id not in self._responses:
            found = self._responses[response_id] = self._store.get(self._owner, response_id)
            if found is not None:
                self._read_bytes += found.size_bytes
                self._check(self._read_bytes)
                self._items |= {item["id"]: item for item in reversed(found.items) if "id" in item}
        return self._responses[response_id]

    def _take(self, size: int) -> None:
        self.taken_bytes += size
        self._check(self._body_bytes + self.taken_bytes)

    def _check(self, size: int) -> None:
        if size > self._most_bytes:
            raise TooLargeError(
                f"The request and what it refers to in earlier responses have more than {self._most_bytes} bytes "
                "(BERTH_MAX_BODY).",
                param="input",
                should_retry=False,
            )
