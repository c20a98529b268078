"""What a response to any request must be: a documented status, an error in the API's own form, a stream with an end."""

import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import orjson

# TGI's 424 is a failed engine, and the engines are well.
ALLOWED: Final = frozenset({200, 400, 401, 404, 405, 408, 413, 415, 422, 429})


def problem(path: str, response: httpx.Response) -> str | None:
    """What is wrong with it."""
    if response.status_code not in ALLOWED:
        return f"status {response.status_code}: {response.text[:300]}"
    kind = response.headers.get("content-type", "")
    if response.status_code != 200:
        return _error_problem(path, response.content)
    if kind.startswith(("text/event-stream", "application/x-ndjson")):
        return _stream_problem(path, response.content)
    try:
        json.loads(response.content)  # Python's: a number that a client wrote comes back with all its digits
    except ValueError as exc:
        return f"not JSON: {exc}"
    return None


def _error_problem(path: str, body: bytes) -> str | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return f"an error that is not JSON: {body[:200]!r}"
    error = document.get("error")
    has_message = isinstance(error, str) if _is_flat(path) else isinstance(error, dict) and bool(error.get("message"))
    return None if has_message else f"an error of another API: {body[:200]!r}"


def _is_flat(path: str) -> bool:
    return path.startswith(("/api/", "/generate")) or path == "/" or path.endswith("/rerank")


def _anthropic_end(body: bytes) -> bool:
    return body.endswith(b'data: {"type":"message_stop"}\n\n') or b"event: error\n" in body[-2000:]


def _responses_end(body: bytes) -> bool:
    last = body.rpartition(b"event: ")[2].partition(b"\n")[0]
    return last in (b"response.completed", b"response.incomplete", b"response.failed")


def _ollama_end(body: bytes) -> bool:
    last: Any = orjson.loads(body.rstrip().rpartition(b"\n")[2])
    return last.get("done") is True or "error" in last or last.get("status") == "success"


def _tgi_end(body: bytes) -> bool:
    last: Any = orjson.loads(body.rstrip().rpartition(b"data:")[2])
    return "error" in last or last["generated_text"] is not None


def _openai_end(body: bytes) -> bool:
    return body.endswith(b"data: [DONE]\n\n") or b'data: {"error"' in body[-2000:]


ENDS: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("/v1/messages", _anthropic_end),
    ("/v1/responses", _responses_end),
    ("/api/", _ollama_end),
    ("/generate", _tgi_end),
    ("/v1/", _openai_end),
    ("/", _tgi_end),
)


def _stream_problem(path: str, body: bytes) -> str | None:
    ended = next(end for prefix, end in ENDS if path.startswith(prefix))
    return None if ended(body) else f"a stream without an end: ...{body[-300:]!r}"
