"""Ollama's own API. Its OpenAI API cannot say how much context a request needs: it cuts longer prompts in silence.

From its documentation and its official clients, and checked against another Berth, which serves the same API.
"""

import re
import secrets
from typing import Any, ClassVar, Final

import orjson

from berth import json_text
from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects.attached.ollama_stream import OllamaStreamDecoder, openai_choice, openai_usage
from berth.dialects.attached.promises import Promises
from berth.dialects.attached.server import COMMON_CHAT, COMMON_COMPLETION, AttachedDialect
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.requests.engine_fields import fields
from berth.plan import DialectName

_OPTIONS: Final = {  # canonical fields -> its options
    **{name: name for name in ("frequency_penalty", "min_p", "presence_penalty", "seed", "temperature")},
    **{name: name for name in ("top_k", "top_p")},
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
}
_PATHS: Final = {
    Operation.CHAT: "/api/chat",
    Operation.COMPLETION: "/api/generate",
    Operation.EMBEDDING: "/api/embed",
}
_GENERATED: Final = {True: Operation.CHAT, False: Operation.COMPLETION}
_DATA_URL: Final = re.compile(r"data:image/[\w.+-]+;base64,(.+)", re.DOTALL | re.IGNORECASE)
_MORE: Final = fields("chat_template_kwargs min_p reasoning_effort repetition_penalty response_format top_k")


class OllamaDialect(AttachedDialect):
    name = DialectName.OLLAMA
    server = "Ollama"
    limit_fields = ("max_tokens",)
    fragile = needs_uuid = False
    continues_chat = continues_completion = False
    health_paths = ("/api/version",)
    stream_type = b"application/x-ndjson"
    chat_fields = COMMON_CHAT | _MORE
    completion_fields = COMMON_COMPLETION | fields("min_p repetition_penalty response_format suffix top_k")
    completion_constraints: ClassVar[frozenset[str]] = frozenset({"json", "json_object"})
    forces_calls = takes_ids = takes_lists = False

    def __init__(self, context: int | None = None) -> None:
        """`context`: for how many tokens it shall make room; None: as many as it is configured for."""
        self._context = context

    def for_context(self, context: int | None) -> "OllamaDialect":
        return OllamaDialect(context)

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation is Operation.MEDIA:
            raise UnsupportedError(f"{self.server} has no such endpoint", param="model")
        sent = super().spell(request, served_name)
        chat = sent.path.endswith("/chat/completions")  # also one that counts tokens
        operation = Operation.EMBEDDING if request.operation is Operation.EMBEDDING else _GENERATED[chat]
        body = json_text.read_back(sent.body)
        if operation is Operation.EMBEDDING:
            ours = {name: body[name] for name in ("input", "dimensions") if body.get(name) is not None}
            ours |= {"truncate": False, **self._options({})}
        else:
            ours = self.spell_generation(body, chat=chat)
            ours["stream"] = request.stream
        document = json_text.dumps({"model": served_name, **ours})
        return UpstreamRequest(path=_PATHS[operation], body=document, ignored=sent.ignored)

    def spell_generation(self, body: Json, *, chat: bool) -> Json:
        ours: Json = self._options(body)
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            ours["format"] = wanted["json_schema"]["schema"]
        elif wanted.get("type") == "json_object":
            ours["format"] = "json"
        if not chat:
            suffix = {"suffix": body["suffix"]} if body.get("suffix") else {"raw": True}
            return {**ours, "prompt": body["prompt"], **suffix}
        if (effort := body.get("reasoning_effort")) is not None:
            ours["think"] = effort != "none" and effort
        elif (enabled := (body.get("chat_template_kwargs") or {}).get("enable_thinking")) is not None:
            ours["think"] = bool(enabled)
        if body.get("tools") and body.get("tool_choice") != "none":
            ours["tools"] = body["tools"]
        calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
        names = {str(call.get("id")): (call.get("function") or {}).get("name") for call in calls}
        return {**ours, "messages": [_message(message, names) for message in body["messages"]]}

    def _options(self, body: Json) -> Json:
        options: Json = {ours: body[name] for name, ours in _OPTIONS.items() if body.get(name) is not None}
        if stop := body.get("stop"):
            options["stop"] = [stop] if isinstance(stop, str) else stop
        if self._context is not None:
            options["num_ctx"] = self._context
        return {"options": options} if options else {}

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return super().answer(request, model, status, _openai_answer(request, body) if status == 200 else body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        promises = Promises.of(request, self.server, enforces_calls=False)
        return OllamaStreamDecoder(request, model, choices=None, judge=self.judge, promises=promises)


def _message(message: Json, names: Json) -> Json:
    """`names`: of functions, by the id of their call."""
    role = "system" if message.get("role") == "developer" else message.get("role")
    text, images = _parts(message.get("content"))
    ours: Json = {"role": role, "content": text}
    if images:
        ours["images"] = images
    if thinking := message.get("reasoning") or message.get("reasoning_content"):
        ours["thinking"] = thinking
    if calls := message.get("tool_calls"):
        ours["tool_calls"] = []
        for call in calls:
            function = call.get("function") or {}
            arguments = json_text.embeddable(function.get("arguments") or "{}")
            if arguments is None:
                raise UnsupportedError("Ollama takes no arguments that are not JSON", param="messages")
            spelled = {"name": function.get("name"), "arguments": orjson.Fragment(arguments)}  # an object there
            ours["tool_calls"].append({"function": spelled})
    if role == "tool" and (name := names.get(str(message.get("tool_call_id")))):
        ours["tool_name"] = name
    return ours


def _parts(content: Any) -> tuple[str, list[str]]:
    """The text, and the pictures in base64."""
    if not isinstance(content, list):
        return content or "", []
    texts, images = [], []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            texts.append(part.get("text") or "")
        elif kind == "image_url" and (found := _DATA_URL.fullmatch((part.get("image_url") or {}).get("url") or "")):
            images.append(found[1])
        else:
            raise UnsupportedError(f"Ollama takes texts, and images as data: URLs, not {kind!r}", param="messages")
    return "".join(texts), images


def _openai_answer(request: InferenceRequest, body: bytes) -> bytes:
    """The response in OpenAI's words; as it is where it is something else."""
    try:
        document = json_text.read_back(body)
        if request.operation is Operation.EMBEDDING:
            count = document.get("prompt_eval_count", 0)
            data = [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(document["embeddings"])
            ]
            usage = {"prompt_tokens": count, "total_tokens": count}
            return json_text.dumps({"object": "list", "data": data, "usage": usage, "model": ""})
        if document.get("done") is not True:
            return body
        choice = openai_choice(document, chat="message" in document, first_call=0)
    except (AttributeError, KeyError, TypeError, ValueError):
        return body
    if "message" in document:
        choice["message"] = {"role": "assistant", **choice.pop("delta")}
    made = f"{'chatcmpl' if 'message' in choice else 'cmpl'}-{secrets.token_hex(12)}"
    return json_text.dumps({"id": made, "choices": [choice], "model": "", "usage": openai_usage(document)})
