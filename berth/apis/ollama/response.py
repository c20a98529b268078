"""Ollama's responses: text and tool calls, counts and durations, log probabilities, and errors."""

import time
from dataclasses import dataclass
from typing import Final

import orjson

from berth import json_text
from berth.apis.base import NDJSON, Immediate
from berth.apis.ollama.request import begun_ns
from berth.apis.tool_arguments import arguments_text, call_as_text
from berth.apis.translated_stream import escape_line_ends
from berth.apis.usage import usage_of
from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import ApiError

NS_PER_S: Final = 1_000_000_000
_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


def rfc3339(second: int) -> bytes:
    """A time in UTC, without fractions of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def now() -> str:
    second, rest_ns = divmod(time.time_ns(), NS_PER_S)
    return f"{rfc3339(second).decode()}.{rest_ns // 1000:06}Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where an endpoint has the model's text: within a message, or flat."""

    chat: bool
    before: bytes  # the bytes before the text, in a part with nothing else but a time
    after: bytes

    def fields(self, text: str, thinking: str = "", calls: list[Json] | None = None) -> Json:
        extras: Json = {"thinking": thinking} if thinking else {}
        if calls:
            extras["tool_calls"] = calls
        if self.chat:
            return {"message": {"role": "assistant", "content": text, **extras}}
        return {"response": text, **extras}


CHAT: Final = Shape(chat=True, before=b'"message":{"role":"assistant","content":"', after=b'"},"done":false}\n')
GENERATE: Final = Shape(chat=False, before=b'"response":"', after=b'","done":false}\n')


class OllamaEndpoint:
    """The common part of all endpoints."""

    stream_type = NDJSON
    native = False
    request_id_header = b"x-request-id"

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError) -> bytes:
        return error_body(error)


def error_body(error: ApiError) -> bytes:
    return json_text.dumps({"error": error.message, **error.extension})


def one_line(json: bytes) -> bytes:
    """In the arguments of a call, which are embedded as the model wrote them, white space may break lines."""
    if b"\n" in json or b"\r" in json:
        json = json.translate(_SPACES)
    return (json if json.isascii() else escape_line_ends(json)) + b"\n"


def response_body(request: InferenceRequest, shape: Shape, body: bytes) -> bytes:
    """For the canonical response of a chat or a completion."""
    document = json_text.loads(body)
    choice = document["choices"][0]
    message = choice.get("message") or {}
    text = message.get("content") or choice.get("text") or ""
    canonical_calls = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        canonical_calls.append((call.get("id"), function["name"], function.get("arguments") or ""))
    calls, rest = tool_calls(canonical_calls)
    fields = shape.fields(text + rest, message.get("reasoning") or "", calls)
    if logprobs := logprobs_of(choice):
        fields["logprobs"] = logprobs
    taken_ns = time.monotonic_ns() - begun_ns(request)
    final = final_fields(choice.get("finish_reason"), usage_of(document.get("usage")), taken_ns, None)
    return json_text.dumps({"model": request.model, "created_at": now(), **fields, **final})


def final_fields(finish_reason: str | None, usage: Usage, taken_ns: int, first_ns: int | None) -> Json:
    """The fields of the last part. All are present and integers, as some clients require.

    `first_ns`: the time to the first token; None where unknown, and all the time then counts as generation. Berth loads
    no model for a request, so the load duration is always 0.
    """
    return {
        "done": True,
        "done_reason": "length" if finish_reason == "length" else "stop",
        "total_duration": taken_ns,
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": first_ns or 0,
        "eval_count": usage.completion_tokens,
        "eval_duration": max(taken_ns - (first_ns or 0), 1),  # clients divide by it
    }


def tool_calls(calls: list[tuple[str | None, str, str]]) -> tuple[list[Json], str]:
    """From (id, name, arguments as text). Ollama's arguments are objects. A call with other arguments is returned as
    text, as Ollama does: the second value.
    """
    found: list[Json] = []
    rest: list[str] = []
    for call_id, name, text in calls:
        arguments = arguments_text(text)
        if arguments is None:
            rest.append(call_as_text(name, text))
            continue
        function = {"index": len(found), "name": name, "arguments": orjson.Fragment(arguments)}
        found.append({"id": call_id or f"call_{len(found)}", "function": function})
    return found, "".join(rest)


def logprobs_of(choice: Json) -> list[Json]:
    """For a choice of a chat or of a completion; empty where it has none."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return []
    if isinstance(logprobs.get("content"), list):
        return [_logprob(token) for token in logprobs["content"]]
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    found = []
    for token, value, top in zip(tokens, values, tops, strict=False):
        if value is None:
            continue
        item: Json = {"token": token, "logprob": value}
        if top:
            item["top_logprobs"] = [{"token": other, "logprob": number} for other, number in top.items()]
        found.append(item)
    return found


def _logprob(token: Json) -> Json:
    item = {"token": token["token"], "logprob": token["logprob"]}
    if token.get("bytes") is not None:
        item["bytes"] = token["bytes"]
    if tops := token.get("top_logprobs"):
        item["top_logprobs"] = [_logprob(top) for top in tops]
    return item


def load_response(model: str, shape: Shape, *, keep_alive_s: float | None) -> Immediate:
    """The response to a request without a prompt, which loads the model, or unloads it if keep_alive is 0."""
    final = {"done": True, "done_reason": "load" if keep_alive_s != 0 else "unload"}
    return Immediate(
        model=model,
        body=json_text.dumps({"model": model, "created_at": now(), **shape.fields(""), **final}),
        loads=keep_alive_s != 0,
        keep_alive_s=keep_alive_s,
    )
