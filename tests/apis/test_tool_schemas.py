"""A tool's schema that is no object is the client's mistake in each API: engines differ in what they make of it."""

from typing import Any

import orjson
import pytest

from berth.errors import InvalidRequestError
from berth.router.server.api_routes import formats
from tests.fakes.responses import Memory

USER = [{"role": "user", "content": "x"}]


def documents(schema: Any) -> dict[str, dict[str, Any]]:
    function = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return {
        "/v1/chat/completions": {"messages": USER, "tools": [function]},
        "/v1/messages": {"max_tokens": 9, "messages": USER, "tools": [{"name": "f", "input_schema": schema}]},
        "/v1/responses": {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": schema}]},
        "/api/chat": {"messages": USER, "tools": [function]},
    }


@pytest.mark.parametrize("schema", [[1], [{}], [], "object", "", 5, 0, True, False])
@pytest.mark.parametrize("path", documents({}))
def test_schema_that_is_no_object_is_rejected(path: str, schema: Any) -> None:
    with pytest.raises(InvalidRequestError):
        formats(Memory())[path].parse(orjson.dumps({"model": "m", **documents(schema)[path]}))


@pytest.mark.parametrize("path", documents({}))
def test_object_is_accepted(path: str) -> None:
    schema = {"type": "object", "properties": {}}
    body: Any = formats(Memory())[path].parse(orjson.dumps({"model": "m", **documents(schema)[path]})).body
    assert body["tools"][0]["function"]["parameters"] == schema
