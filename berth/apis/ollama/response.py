"""What Ollama's endpoints answer: what the model said, counts and durations, log probabilities, and errors."""

import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

from berth.apis.base import NDJSON, Immediate
from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import ApiError

NS_PER_S: Final = 1_000_000_000
_LINE_ENDS: Final = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest(InferenceRequest):
    """Ollama's answers tell how long they took."""

    begun_ns: int  # time.monotonic_ns() when it was read


def begun_ns(request: InferenceRequest) -> int:
    return request.begun_ns if isinstance(request, TimedRequest) else time.monotonic_ns()


def rfc3339(second: int) -> bytes:
    """A time in UTC, up to its second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def now() -> str:
    second, rest_ns = divmod(time.time_ns(), NS_PER_S)
    return f"{rfc3339(second).decode()}.{rest_ns // 1000:06}Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How an endpoint says what the model said: within a message, or flat."""

    chat: bool
    before: bytes  # the text of a part that has nothing but text and the time in front
    after: bytes

    def says(self, text: str, thinking: str = "", calls: list[Json] | None = None) -> Json:
        extras: Json = {"thinking": thinking} if thinking else {}
        if calls:
            extras["tool_calls"] = calls
        if self.chat:
            return {"message": {"role": "assistant", "content": text, **extras}}
        return {"response": text, **extras}


CHAT: Final = Shape(chat=True, before=b'"message":{"role":"assistant","content":"', after=b'"},"done":false}\n')
GENERATE: Final = Shape(chat=False, before=b'"response":"', after=b'","done":false}\n')


class OllamaAnswers:
    """What all endpoints share."""

    stream_type = NDJSON
    native = False
    request_id_header = b"x-request-id"

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError) -> bytes:
        return error_body(error)


def error_body(error: ApiError) -> bytes:
    return orjson.dumps({"error": error.message})


def escaped(json: bytes) -> bytes:
    """JSON in which no character ends a line: the official Python client reads with what cuts at these three too."""
    for raw, escape in _LINE_ENDS.items():
        json = json.replace(raw, escape)
    return json


def one_line(json: bytes) -> bytes:
    return (json if json.isascii() else escaped(json)) + b"\n"


def whole_answer(request: InferenceRequest, shape: Shape, body: bytes) -> bytes:
    """Of a canonical answer, chat's or completion's."""
    document = orjson.loads(body)
    choice = document["choices"][0]
    message = choice.get("message") or {}
    text = message.get("content") or choice.get("text") or ""
    made = [(call.get("id"), call["function"]) for call in message.get("tool_calls") or ()]
    calls, rest = tool_calls([(given, one["name"], one.get("arguments") or "") for given, one in made])
    says = shape.says(text + rest, message.get("reasoning") or "", calls)
    if logprobs := logprobs_of(choice):
        says["logprobs"] = logprobs
    taken_ns = time.monotonic_ns() - begun_ns(request)
    end = ending(choice.get("finish_reason"), usage_of(document.get("usage")), taken_ns, None)
    return orjson.dumps({"model": request.model, "created_at": now(), **says, **end})


def ending(finish_reason: str | None, usage: Usage, taken_ns: int, first_ns: int | None) -> Json:
    """The fields of the end. All are there, as integers: some clients know no others.

    `first_ns`: after how long the first token came; None where that is not known: all of the time then counts as
    generating. Berth loads no model for a request, so that nothing ever takes the time of loading.
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


def usage_of(usage: Any) -> Usage:
    """Of a canonical answer; all 0 where the engine told nothing."""
    if not isinstance(usage, dict):
        return Usage()
    return Usage(prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0)


def tool_calls(made: list[tuple[str | None, str, str]]) -> tuple[list[Json], str]:
    """Of (id, name, arguments as text). Ollama's arguments are objects; a call whose arguments are none, because the
    answer was cut or the model failed to write JSON, is told as text, as Ollama does: the second value.
    """
    calls: list[Json] = []
    rest = ""
    for given, name, text in made:
        arguments = _object(text)
        if arguments is None:
            rest += f'{{"name": {orjson.dumps(name).decode()}, "arguments": {text}}}'
            continue
        function = {"index": len(calls), "name": name, "arguments": arguments}
        calls.append({"id": given or f"call_{len(calls)}", "function": function})
    return calls, rest


def _object(text: str) -> Json | None:
    """No arguments at all are an empty object."""
    if text.strip() in ("", "null"):
        return {}
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def logprobs_of(choice: Json) -> list[Json]:
    """Of a chat's choice or of a completion's; empty where it has none."""
    found = choice.get("logprobs")
    if not found:
        return []
    if isinstance(found.get("content"), list):
        return [_logprob(token) for token in found["content"]]
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [None] * len(tokens)
    return [
        {"token": token, "logprob": value, **_alternatives(top)}
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None
    ]


def _logprob(token: Json) -> Json:
    told = {"token": token["token"], "logprob": token["logprob"]}
    if token.get("bytes") is not None:
        told["bytes"] = token["bytes"]
    if tops := token.get("top_logprobs"):
        told["top_logprobs"] = [_logprob(top) for top in tops]
    return told


def _alternatives(top: dict[str, float] | None) -> Json:
    return {"top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()]} if top else {}


def loaded(model: str, shape: Shape, *, unloading: bool) -> Immediate:
    """The answer to a request without a prompt. What is loaded, the operator has decided: nothing happens."""
    end = {"done": True, "done_reason": "unload" if unloading else "load"}
    return Immediate(model=model, body=orjson.dumps({"model": model, "created_at": now(), **shape.says(""), **end}))
