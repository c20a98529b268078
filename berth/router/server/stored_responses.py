"""Stored responses: GET and DELETE of /v1/responses/{id}, and the paths below it."""

from typing import Final
from urllib.parse import parse_qs

from starlette.routing import Route
from starlette.types import Scope

from berth.apis.responses.store import StoredResponse
from berth.errors import InvalidRequestError, NotFoundError, shortened
from berth.router.exchange.responses import Reply, json_reply
from berth.router.server.pages import Build, Page
from berth.router.worker import Worker

_MOST_ITEMS: Final = 100
_USUAL_ITEMS: Final = 20


def retrieve(worker: Worker, scope: Scope) -> Reply:
    if _query(scope).get("stream") == "true":
        raise InvalidRequestError(
            "Only background responses can be streamed again. Send the request without 'stream'.",
            param="stream",
        )
    return json_reply(_found(worker, scope).response)


def delete(worker: Worker, scope: Scope) -> Reply:
    stored = _found(worker, scope)
    worker.responses.delete(_owner(worker, scope), stored.id)
    return json_reply({"id": stored.id, "object": "response", "deleted": True})


def cancel(worker: Worker, scope: Scope) -> Reply:
    """Always an error: there are no background responses. To cancel one in progress, close its connection."""
    stored = _found(worker, scope)
    raise InvalidRequestError(
        f"Cannot cancel response {stored.id!r}: only background responses can be cancelled, and Berth makes none. "
        "To cancel a response in progress, close its connection.",
        param="response_id",
    )


def input_items(worker: Worker, scope: Scope) -> Reply:
    """A page of the input items: `limit`, `order` (by default `desc`, the newest first), `after` an id."""
    items = _found(worker, scope).input
    query = _query(scope)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError(f"'order' must be 'asc' or 'desc', not {shortened(order)!r}.", param="order")
    if order == "desc":
        items = items[::-1]
    if (after := query.get("after")) is not None:
        found = [index for index, item in enumerate(items) if item["id"] == after]
        if not found:
            raise InvalidRequestError(
                f"'after' must be the id of one of the items, not {shortened(after)!r}.", param="after"
            )
        items = items[found[0] + 1 :]
    page = items[: _limit(query.get("limit"))]
    document = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(page) < len(items),
    }
    return json_reply(document)


_ROUTES: Final[tuple[tuple[str, str, Build], ...]] = (
    ("/v1/responses/{response_id}", "GET", retrieve),
    ("/v1/responses/{response_id}", "DELETE", delete),
    ("/v1/responses/{response_id}/cancel", "POST", cancel),
    ("/v1/responses/{response_id}/input_items", "GET", input_items),
)
PATHS: Final = tuple(dict.fromkeys(path for path, _, _ in _ROUTES))


def routes(worker: Worker) -> list[Route]:
    return [Route(path, Page(worker, build, needs_key=True), methods=[method]) for path, method, build in _ROUTES]


def _owner(worker: Worker, scope: Scope) -> str:
    return worker.responses.owner(dict(scope["headers"]))


def _found(worker: Worker, scope: Scope) -> StoredResponse:
    name = scope["path_params"]["response_id"]
    stored = worker.responses.get(_owner(worker, scope), name)
    if stored is None:
        raise NotFoundError(
            f"Response with id {shortened(name)!r} not found. Berth stores only the newest ones, and none with "
            "'store': false.",
            param="response_id",
            code="response_not_found",
        )
    return stored


def _query(scope: Scope) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}


def _limit(value: str | None) -> int:
    if value is None:
        return _USUAL_ITEMS
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:9]) <= _MOST_ITEMS:
        raise InvalidRequestError(
            f"'limit' must be between 1 and {_MOST_ITEMS}, not {shortened(value)!r}.", param="limit"
        )
    return int(value)
