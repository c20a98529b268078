"""A whole answer as Anthropic's message, and what a streamed one shares with it: ids, signatures, usage, the end."""

import base64
import hashlib
from typing import Any, Final

import orjson

from berth.apis.anthropic.tools import long_names
from berth.canonical import InferenceRequest, Json

_SIGNATURE_BYTES: Final = 48


def message_of(request: InferenceRequest, answer: Json) -> Json:
    """The message for a canonical chat answer."""
    choice = answer["choices"][0]
    said = choice.get("message") or {}
    calls = [call.get("function") or {} for call in said.get("tool_calls") or ()]
    broken = any(arguments_of(function.get("arguments")) is None for function in calls)
    message = opening(request, answer.get("id"))
    message["content"] = _content(request, message["id"], said)
    message |= ending(request, choice, answer.get("usage"), called=bool(calls), broken=broken)
    message["usage"] = usage_of(answer.get("usage"))
    return message


def opening(request: InferenceRequest, answer_id: Any) -> Json:
    """A message in which nothing was said yet."""
    return {
        "id": f"msg_{str(answer_id or '').removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(None),
    }


def _content(request: InferenceRequest, message_id: str, said: Json) -> list[Json]:
    """Blocks of nothing but white space are left out: models put it between reasoning and calls."""
    blocks: list[Json] = []
    reasoning = reasoning_of(said)
    if reasoning.strip():
        shown = "" if hides_thinking(request) else reasoning
        blocks.append({"type": "thinking", "thinking": shown, "signature": signature(message_id, len(blocks))})
    text = said.get("content") or ""
    if text.strip():
        blocks.append({"type": "text", "text": text})
    names = long_names(request.original)
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        block = tool_use(message_id, len(blocks), call.get("id"), function.get("name"), names)
        blocks.append({**block, "input": arguments_of(function.get("arguments")) or {}})
    return blocks


def reasoning_of(said: Json) -> str:
    """Of a message or a delta."""
    return str(said.get("reasoning") or said.get("reasoning_content") or "")


def tool_use(message_id: str, index: int, call_id: Any, name: Any, names: dict[str, str]) -> Json:
    """A call without its input. The engine's id is kept, because some templates show it to the model again."""
    name = str(name or "")
    called = str(call_id or f"toolu_{message_id.removeprefix('msg_')}_{index}")
    return {"type": "tool_use", "id": called, "name": names.get(name, name), "input": {}}


def hides_thinking(request: InferenceRequest) -> bool:
    """The client wants to know that there was reasoning, and not what."""
    return (request.original.get("thinking") or {}).get("display") == "omitted"


def signature(message_id: str, index: int) -> str:
    """Clients keep it and send it back; nothing is read from it here."""
    digest = hashlib.blake2b(f"{message_id}/{index}".encode(), digest_size=_SIGNATURE_BYTES).digest()
    return base64.b64encode(digest).decode()


def arguments_of(text: Any) -> Json | None:
    """The input of a tool. None where the text is not a JSON object, mostly because max_tokens cut it."""
    if not text or not text.strip():
        return {}
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else None


def usage_of(usage: Any) -> Json:
    """Anthropic counts the tokens that were in the cache apart."""
    found = usage if isinstance(usage, dict) else {}
    cached = _count(found.get("prompt_tokens_details"), "cached_tokens")
    fields: Json = {
        "input_tokens": max(0, _count(found, "prompt_tokens") - cached),
        "output_tokens": _count(found, "completion_tokens"),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }
    thinking = _count(found.get("completion_tokens_details"), "reasoning_tokens") or _count(found, "reasoning_tokens")
    if thinking:
        fields["output_tokens_details"] = {"thinking_tokens": thinking}
    return fields


def _count(counts: Any, name: str) -> int:
    """0 where the engine does not tell."""
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) else 0


def ending(request: InferenceRequest, choice: Json, usage: Any, *, called: bool, broken: bool) -> Json:
    """Why the answer ends, from the choice that has its finish_reason. `broken`: the input of a tool is not whole."""
    finish = choice.get("finish_reason")
    stop = _stop_sequence(request, choice)
    if broken or finish == "length":
        reason = _limit(request, usage, broken=broken)
    elif called:
        reason = "tool_use"
    elif finish == "content_filter":
        reason = "refusal"
    elif stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    else:
        reason = "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}


def _limit(request: InferenceRequest, usage: Any, *, broken: bool) -> str:
    """Fewer tokens than were asked for: it was the context that ended."""
    if not broken and 0 < _count(usage, "completion_tokens") < (request.original.get("max_tokens") or 0):
        return "model_context_window_exceeded"
    return "max_tokens"


def _stop_sequence(request: InferenceRequest, choice: Json) -> str | None:
    """VLLM and TensorRT-LLM tell it in one field, SGLang in another; a number there is a token."""
    stop = choice.get("stop_reason") or choice.get("matched_stop")
    return stop if isinstance(stop, str) and stop in (request.body.get("stop") or ()) else None
