"""Servers that people attach, as far as Berth sees them: each says what the real one says, in its own words.

    with FakeUpstream() as upstream:
        upstream.answers_with(MlxServer())

A prompt has as many tokens as words, and some for each turn; an answer is the text that follows in `SAID`.
"""

import uuid
from collections.abc import Callable
from typing import Any

import orjson

from tests.fakes.upstream import LAST_CHUNK, Request, Step, answer, chunk, sse, stream_head

SAID = " five six seven eight nine ten"
_BEGIN, _END = 3, 2  # tokens around a turn
_IMAGE = b'"image_url"'


class AttachedServer:
    """One that serves OpenAI's chats and completions. `continues`: it leaves a last turn of the assistant open."""

    server = "uvicorn"
    continues = False
    lists = generates = True
    joins = True  # a completion begins with the space that its prompt lacks

    def __init__(self) -> None:
        self.stopped = False  # nothing generates any more

    def __call__(self, request: Request) -> tuple[Step, ...]:
        steps = self.page(request) if request.method == "GET" else self.inference(request)
        return steps or (self.reply({"detail": "Not Found"}, status=404),)

    def reply(self, document: Any, *, status: int = 200, headers: str = "") -> bytes:
        head = f"content-type: application/json\r\nserver: {self.server}\r\n{headers}"
        return answer(orjson.dumps(document), status=status, headers=head)

    def page(self, request: Request) -> tuple[Step, ...]:
        """GET; nothing for a path that it does not have."""
        found = self.lists and request.path == "/v1/models"
        return (self.reply({"object": "list", "data": [{"id": "m"}]}),) if found else ()

    def inference(self, request: Request) -> tuple[Step, ...]:
        body = request.json
        if not self.generates:
            return ()
        if request.path == "/v1/chat/completions":
            return self.generated(body, self.prompt_tokens(body), {"message": {"role": "assistant", "content": SAID}})
        if request.path == "/v1/completions":
            rest = SAID[len(body["prompt"].partition("four")[2]) :]
            text = "".join(f" {word}" for word in rest.split()[: body.get("max_tokens") or 16])
            return self.generated(body, len(body["prompt"].split()), {"text": text if self.joins else text.lstrip()})
        return ()

    def prompt_tokens(self, body: Any) -> int:
        turns = body["messages"]
        total = sum(_BEGIN + len(str(turn["content"]).split()) + _END for turn in turns)
        is_open = self.continues and body.get("continue_final_message") and turns[-1]["role"] == "assistant"
        return total - _END if is_open else total + _BEGIN

    def generated(self, body: Any, prompt_tokens: int, choice: dict[str, Any]) -> tuple[Step, ...]:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "total_tokens": prompt_tokens + 1}
        head = {"id": "x-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            finished = {"index": 0, "finish_reason": "stop", **choice}
            return (self.reply({**head, "object": "chat.completion", "choices": [finished], "usage": usage}),)
        text = choice.get("text") or choice["message"]["content"]
        key = "text" if "text" in choice else "delta"
        frames = [{"index": 0, key: text if key == "text" else {"content": text}, "finish_reason": None}]
        frames.append({"index": 0, key: "" if key == "text" else {}, "finish_reason": "stop"})
        rows = [chunk(sse({**head, "object": "chat.completion.chunk", "choices": [frame]})) for frame in frames]
        return (stream_head(), *rows, chunk(b"data: [DONE]\n\n"), LAST_CHUNK)


class LlamacppServer(AttachedServer):
    """llama.cpp's `llama-server`. Its models are listed without its key."""

    server = "llama.cpp"
    continues = True

    def __init__(self, *, key: str = "", loading: bool = False, models: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.key = key
        self.loading = loading
        self.models = models  # of its router mode; (): any name is right

    def page(self, request: Request) -> tuple[Step, ...]:
        if self.loading:
            return (self.error(503, "Loading model", "unavailable_error"),)
        if request.path == "/health":
            return (self.reply({"status": "ok"}),)
        return super().page(request)

    def inference(self, request: Request) -> tuple[Step, ...]:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return (self.error(401, "Invalid API Key", "authentication_error"),)
        if self.loading:
            return (self.error(503, "Loading model", "unavailable_error"),)
        if self.models and request.json["model"] not in self.models:
            name = request.json["model"]
            return (self.error(400, f"model '{name}' not found", "invalid_request_error"),)
        if _IMAGE in request.body:
            hint = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
            return (self.error(500, hint, "server_error"),)
        return super().inference(request)

    def error(self, status: int, message: str, kind: str) -> bytes:
        return self.reply({"error": {"code": status, "message": message, "type": kind}}, status=status)


class MlxServer(AttachedServer):
    """`mlx_lm.server`: one thread generates, and a prompt that is a list ends it."""

    server = "BaseHTTP/0.6 Python/3.11.7"
    joins = False

    def page(self, request: Request) -> tuple[Step, ...]:
        if request.path != "/health":
            return super().page(request)
        state, status = ("unavailable", 503) if self.stopped else ("ok", 200)
        return (self.reply({"status": state}, status=status),)

    def inference(self, request: Request) -> tuple[Step, ...]:
        if _IMAGE in request.body:
            return (self.reply({"error": "Only 'text' content type is supported."}, status=404),)
        self.stopped |= isinstance(request.json.get("prompt"), list)
        if self.stopped:
            return (self.reply({"error": "generation thread died"}, status=404),)
        return super().inference(request)


class TransformersServer(AttachedServer):
    """`transformers serve` with a model given, and without a cache folder to list."""

    def page(self, request: Request) -> tuple[Step, ...]:
        if request.path == "/health":
            return (self.reply({"status": "ok"}),)
        return (answer(b"Internal Server Error", status=500),) if request.path == "/v1/models" else ()

    def inference(self, request: Request) -> tuple[Step, ...]:
        body = request.json
        if body["model"] != "org/pinned":
            text = f"Server is pinned to 'org/pinned'; requests for '{body['model']}' are not accepted."
            return (self.reply({"detail": text}, status=400),)
        if body.keys() & {"continue_final_message", "guided_json"}:
            text = "Unexpected fields in the request: {'continue_final_message'}"
            return (self.reply({"detail": text}, status=422),)
        return super().inference(request)


class LlamacppPythonServer(AttachedServer):
    """`python -m llama_cpp.server`, which takes nothing but UUIDs as request ids."""

    def __call__(self, request: Request) -> tuple[Step, ...]:
        try:
            uuid.UUID(request.headers.get("x-request-id", str(uuid.uuid4())))
        except ValueError:
            return (answer(b"", status=400, headers=""),)
        return super().__call__(request)


class StartingBerth(AttachedServer):
    """Another Berth, whose engine is starting: it lists the model all the same."""

    server = "granian"

    def page(self, request: Request) -> tuple[Step, ...]:
        return (self.reply({"status": "ok"}),) if request.path == "/health" else super().page(request)

    def inference(self, request: Request) -> tuple[Step, ...]:
        text = f"Model {request.json['model']!r} is starting on vllm: load 45 %."
        error = {"message": text, "type": "service_unavailable", "param": None, "code": "model_not_ready"}
        return (self.reply({"error": error}, status=503, headers="retry-after: 7\r\n"),)


class CircleOfBerths(AttachedServer):
    """Another Berth, which could only ask this one; it counts the hops of what it is asked."""

    def inference(self, request: Request) -> tuple[Step, ...]:
        message = f"The request has passed {request.headers.get('x-berth-hops')} Berths."
        error = {"message": message, "type": "upstream_error", "param": None, "code": "loop_detected"}
        return (self.reply({"error": error}, status=508),)


class ImageServer(AttachedServer):
    """One that generates images: it has no chats and no completions."""

    generates = False


class Elsewhere(AttachedServer):
    """A web server that is no inference server: the URL is wrong."""

    generates = lists = False


class CountsWithoutTemplate(AttachedServer):
    """Its usage has the words of the messages alone, which shows nothing about turns."""

    def prompt_tokens(self, body: Any) -> int:
        return sum(len(str(turn["content"]).split()) for turn in body["messages"])


Serve = Callable[[Request], tuple[Step, ...]]
