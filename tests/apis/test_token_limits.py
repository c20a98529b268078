"""Limits of tokens, in every API: what does not fit into 32 bits reaches no engine, and no other arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.canonical import InferenceRequest
from berth.errors import InvalidRequestError
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats

MESSAGES = [{"role": "user", "content": "hello"}]
HUGE = [2**31, 2**63, 10**300]
REJECTED: Mapping[str, tuple[str, dict[str, Any]]] = {  # the field, and what else the request needs
    "/v1/chat/completions": ("max_tokens", {"messages": MESSAGES}),
    "/v1/chat/completions ": ("max_completion_tokens", {"messages": MESSAGES}),
    "/v1/completions": ("max_tokens", {"prompt": "hello"}),
    "/v1/completions ": ("min_tokens", {"prompt": "hello"}),
    "/v1/responses": ("max_output_tokens", {"input": "hello"}),
    "/v1/messages": ("max_tokens", {"messages": MESSAGES}),
}


def parse(folder: Path, path: str, document: Any) -> InferenceRequest:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    store = ResponseFiles(folder, writers=1, open_access=True)
    request = formats(store)[path.strip()].parse(body, {})
    assert isinstance(request, InferenceRequest)
    return request


def with_number(document: dict[str, Any], number: int) -> bytes:
    """Orjson writes no integers beyond 64 bits."""
    return orjson.dumps(document).replace(b"4711", str(number).encode())


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("path", REJECTED)
def test_rejects_a_limit_beyond_31_bits(tmp_path: Path, path: str, number: int) -> None:
    field, rest = REJECTED[path]
    document = {"model": "m", **rest, field: 4711}
    assert 4711 in parse(tmp_path, path, document).body.values()
    with pytest.raises(InvalidRequestError, match=f"'{field}' must be an integer between"):
        parse(tmp_path, path, with_number(document, number))


NESTED: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "/generate": ("parameters", "max_new_tokens", {"inputs": "hello"}),
    "/api/chat": ("options", "num_predict", {"messages": MESSAGES}),
    "/api/generate": ("options", "num_predict", {"prompt": "hello"}),
}


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("path", NESTED)
def test_rejects_it_among_the_settings_of_other_apis(tmp_path: Path, path: str, number: int) -> None:
    holder, field, rest = NESTED[path]
    document = {"model": "m", **rest, holder: {field: 4711}}
    assert parse(tmp_path, path, document).body["max_tokens"] == 4711
    with pytest.raises(InvalidRequestError, match=f"{field}' must be an integer between"):
        parse(tmp_path, path, with_number(document, number))
