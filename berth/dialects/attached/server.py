"""What the dialects of attached servers share."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from berth import json_text
from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import tokenize
from berth.dialects.answers import PATHS, upstream_body, upstream_request, with_limit
from berth.dialects.attached.promises import Promises, forced_call
from berth.dialects.attached.stream_decoder import AttachedStreamDecoder
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.choices import expected_choices
from berth.dialects.media import media_request
from berth.dialects.openai import OpenaiDialect
from berth.dialects.requests.engine_fields import fields
from berth.dialects.requests.fields import keep_fields, without_control
from berth.dialects.requests.structured_output import split_constraint

COMMON: Final = fields(
    "frequency_penalty max_tokens model presence_penalty seed stop stream stream_options temperature top_p"
)
COMMON_CHAT: Final = COMMON | fields("max_completion_tokens messages tool_choice tools")
COMMON_COMPLETION: Final = COMMON | fields("prompt")
_KINDS: Final = {"json": "JSON schema", "json_object": "JSON object", "structural_tag": "structural tag"}
_IMAGES: Final = frozenset({"image_url", "input_image", "image"})


class AttachedDialect(OpenaiDialect):
    """An attached server of unknown kind: all is sent, and what can be seen in a response is checked there."""

    server: ClassVar[str] = "the attached server"  # in messages
    limit_fields: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    chat_fields: ClassVar[frozenset[str] | None] = None  # that it reads; None: unknown, all are sent
    completion_fields: ClassVar[frozenset[str] | None] = None
    constraints: ClassVar[frozenset[str]] = frozenset({"json", "json_object"})  # of chats
    completion_constraints: ClassVar[frozenset[str]] = frozenset()
    forces_calls: ClassVar[bool] = True  # False: a forced call is refused
    enforces_calls: ClassVar[bool] = False  # by a grammar
    takes_ids: ClassVar[bool] = True  # prompts of token ids
    takes_lists: ClassVar[bool] = True  # several prompts in one completion
    takes_images: ClassVar[bool] = True
    streams_usage: ClassVar[bool] = True
    renames: ClassVar[Mapping[str, str]] = {}  # of fields
    developer_role: ClassVar[bool] = True  # False: such messages are sent as the system's

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation is Operation.MEDIA:
            return media_request(request, served_name, self.passed)
        if request.operation in tokenize.TOKENS:
            request = tokenize.count_request(request, self.server)
        if request.operation not in PATHS:
            raise UnsupportedError(f"{self.server} has no {request.operation} endpoint", param="model")
        body, ignored = without_control(upstream_body(request, served_name), self.passed)
        if request.operation is Operation.EMBEDDING:
            if not self.takes_ids and _has_ids(body.get("input")):
                raise UnsupportedError(f"{self.server} takes no token ids", param="input")
            return upstream_request(request, body, ignored)
        return self.spell_text(request, body, ignored)

    def spell_text(self, request: InferenceRequest, body: Json, ignored: tuple[str, ...]) -> UpstreamRequest:
        """A chat or a completion, with the fields that the server reads. `ignored`: the names of those left out."""
        chat = request.operation is Operation.CHAT
        if chat and self.limit_fields:
            body = with_limit(body, self.limit_fields)
        body, constraint = self._constrained(body, chat=chat)
        body = self.spell_chat(body) if chat else self.spell_completion(body)
        body = {self.renames.get(name, name): value for name, value in body.items()}
        known = self.chat_fields if chat else self.completion_fields
        if known is not None:
            if "stream_options" not in known:
                body.pop("stream_options", None)  # Berth's own wish
            body, unread = keep_fields(known | self.passed, body, self.server, self.passed)
            ignored += unread
        if request.stream and request.include_usage and not self.streams_usage:
            ignored = (*ignored, "stream_options")
        return upstream_request(request, body | constraint, ignored)

    def spell_chat(self, body: Json) -> Json:
        """The chat in the words of this server."""
        if forced_call(body) is not None and not self.forces_calls:
            raise UnsupportedError(f"{self.server} cannot force a tool call", param="tool_choice")
        messages: list[Any] = body.get("messages") or []
        contents = [content for message in messages if isinstance(content := message.get("content"), list)]
        parts = [part for content in contents for part in content]
        if not self.takes_images and any(isinstance(part, dict) and part.get("type") in _IMAGES for part in parts):
            raise UnsupportedError(f"{self.server} answers without looking at images", param="messages")
        if not self.developer_role:
            body["messages"] = [
                {**message, "role": "system"} if message.get("role") == "developer" else message for message in messages
            ]
        return body

    def constrain(self, kind: str, value: Any) -> Json:
        """The fields for a constraint of a chat, in the words of this server."""
        if kind != "json":
            return {"response_format": {"type": kind}}
        schema = {"name": "answer", "schema": value, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def constrain_completion(self, kind: str, value: Any) -> Json:
        """The same for a completion, which OpenAI's API does not have."""
        return self.constrain(kind, value)

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        response = super().answer(request, model, status, body)
        if isinstance(response, Failure):
            return response
        promises = Promises.of(request, self.server, enforces_calls=self.enforces_calls)
        return (promises and promises.broken_by(json_text.loads(response.body))) or response

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return super().stream(request, model)
        promises = Promises.of(request, self.server, enforces_calls=self.enforces_calls)
        choices = expected_choices(request)
        expected = choices if choices > 1 else None  # a request for one choice ends with as many as began
        return AttachedStreamDecoder(request, model, choices=expected, judge=self.judge, promises=promises)

    def _constrained(self, body: Json, *, chat: bool) -> tuple[Json, Json]:
        """The body without its constraint, and the constraint in this server's words."""
        body, found = split_constraint(body)
        given = body.get("response_format") or {}
        kind, value, field = given.get("type", "text"), given.get("schema"), "response_format"
        if found is not None:
            kind, value, field = found.kind, found.value, found.field
            for option in found.options:
                raise UnsupportedError(f"{self.server} does not support {option!r} in {field!r}", param=field)
        elif kind == "json_schema":
            kind, value = "json", (given.get("json_schema") or {}).get("schema")
        elif kind == "json_object" and value is not None:
            kind = "json"
        if kind == "text":
            return body, {}
        if kind not in (self.constraints if chat else self.completion_constraints):
            what = f"{self.server} cannot keep its output to a {_KINDS.get(kind, kind)}"
            raise UnsupportedError(what if chat else f"{what} in completions", param=field)
        rest = {name: value for name, value in body.items() if name != "response_format"}
        return rest, self.constrain(kind, value) if chat else self.constrain_completion(kind, value)

    def spell_completion(self, body: Json) -> Json:
        """The completion in the words of this server."""
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt:
            if not self.takes_ids and _has_ids(prompt):
                raise UnsupportedError(f"{self.server} takes no token ids", param="prompt")
            if not isinstance(prompt[0], int) and not self.takes_lists:
                if len(prompt) > 1:
                    raise UnsupportedError(f"{self.server} takes one prompt in a request", param="prompt")
                return {**body, "prompt": prompt[0]}
        return body


def _has_ids(texts: Any) -> bool:
    return isinstance(texts, list) and bool(texts) and isinstance(texts[0], int | list)
