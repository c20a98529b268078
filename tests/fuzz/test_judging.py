import httpx
import pytest

from tests.fuzz.judging import problem

SSE = "text/event-stream; charset=utf-8"
LINES = "application/x-ndjson"
JSON = "application/json"

WRONG = {
    "an internal error": ("/v1/messages", 500, JSON, b'{"type":"error","error":{"message":"x"}}'),
    "a failed engine": ("/v1/chat/completions", 502, JSON, b'{"error":{"message":"x"}}'),
    "a failed engine of TGI": ("/generate", 424, JSON, b'{"error":"x","error_type":"generation"}'),
    "an error in plain text": ("/v1/messages", 400, JSON, b"Bad Request"),
    "an error of another API": ("/api/chat", 400, JSON, b'{"error":{"message":"x"}}'),
    "an error without a message": ("/v1/completions", 400, JSON, b'{"error":{"message":""}}'),
    "half a document": ("/v1/chat/completions", 200, JSON, b'{"choices":'),
    "OpenAI's stream": ("/v1/chat/completions", 200, SSE, b'data: {"choices":[]}\n\n'),
    "Anthropic's stream": ("/v1/messages", 200, SSE, b'event: ping\ndata: {"type":"ping"}\n\n'),
    "a stream of Responses": ("/v1/responses", 200, SSE, b"event: response.created\ndata: {}\n\n"),
    "Ollama's stream": ("/api/chat", 200, LINES, b'{"done":false}\n'),
    "TGI's stream": ("/generate_stream", 200, SSE, b'data:{"generated_text":null}\n\n'),
}
RIGHT = {
    "an error": ("/v1/chat/completions", 400, JSON, b'{"error":{"message":"x"}}'),
    "an error of Ollama": ("/api/chat", 404, JSON, b'{"error":"x"}'),
    "an error of TGI": ("/generate", 422, JSON, b'{"error":"x","error_type":"validation"}'),
    "a document": ("/v1/chat/completions", 200, JSON, b"{}"),
    "OpenAI's stream": ("/v1/completions", 200, SSE, b"data: {}\n\ndata: [DONE]\n\n"),
    "OpenAI's stream with an error": ("/v1/completions", 200, SSE, b'data: {"error":{}}\n\n'),
    "Anthropic's stream": ("/v1/messages", 200, SSE, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
    "Anthropic's stream with an error": ("/v1/messages", 200, SSE, b"data: {}\n\nevent: error\ndata: {}\n\n"),
    "a stream of Responses": ("/v1/responses", 200, SSE, b"event: response.failed\ndata: {}\n\n"),
    "Ollama's stream": ("/api/chat", 200, LINES, b'{"done":false}\n{"done":true}\n'),
    "Ollama's progress": ("/api/pull", 200, LINES, b'{"status":"success"}\n'),
    "TGI's stream": ("/", 200, SSE, b'data:{"generated_text":"x"}\n\n'),
}


def judged(path: str, status: int, kind: str, body: bytes) -> str | None:
    return problem(path, httpx.Response(status, headers={"content-type": kind}, content=body))


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_names_what_is_wrong(case: tuple[str, int, str, bytes]) -> None:
    assert judged(*case)


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_accepts_what_an_api_sends(case: tuple[str, int, str, bytes]) -> None:
    assert judged(*case) is None
