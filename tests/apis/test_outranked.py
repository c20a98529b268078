"""A request that has lost its place in a full queue is told so in its own API's way, whole or streamed."""

import json

import pytest

from berth.apis.stream_events import STREAMS
from berth.canonical import InferenceRequest
from berth.router.exchange.outcomes import outranked
from berth.router.server.api_routes import formats
from tests.fakes.responses import Memory

APIS = formats(Memory())
ERROR = outranked("m", 7)
WORDS = "a request of higher priority has taken the place of this one"
TURNS = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
BODIES = {
    "/v1/chat/completions": TURNS,
    "/v1/completions": {"model": "m", "prompt": "x", "stream": True},
    "/v1/responses": {"model": "m", "input": "x", "stream": True},
    "/v1/messages": {**TURNS, "max_tokens": 9},
    "/api/chat": TURNS,
    "/api/generate": {"model": "m", "prompt": "x", "stream": True},
    "/generate_stream": {"inputs": "x"},
}


@pytest.mark.parametrize("path", APIS)
def test_whole_response(path: str) -> None:
    api = APIS[path]
    text = api.error(ERROR).decode()
    error = json.loads(text)["error"]
    assert WORDS in text
    if path.startswith("/v1/messages"):  # Anthropic's clients know this status
        assert (api.status(ERROR), error["type"]) == (529, "overloaded_error")
        return
    assert api.status(ERROR) == 429
    if isinstance(error, dict):  # of the APIs that have codes
        assert error["code"] == "outranked"


@pytest.mark.parametrize("path", BODIES)
def test_stream_that_has_begun(path: str) -> None:
    api, table = APIS[path], next(one for one in STREAMS if path in one.paths)
    request = api.parse(json.dumps(BODIES[path]).encode())
    assert isinstance(request, InferenceRequest)
    encoder = api.stream(request)
    sent = encoder.heartbeat("queued, position 3") + encoder.fail(ERROR)
    lines = [line.removeprefix(b"data:").strip() for line in sent.split(b"\n") if line.startswith((b"data:", b"{"))]
    failed = [line for line in lines if table.last(line) == table.failed]
    assert len(failed) == 1
    assert WORDS in failed[0].decode()
