"""A non-streaming response as Anthropic's message, and what streams share: ids, signatures, usage, stop reason."""

import base64
import hashlib
from typing import Any, Final

import orjson

from berth.apis.anthropic.tools import long_names
from berth.apis.tool_arguments import arguments_text, call_as_text
from berth.apis.usage import token_count
from berth.canonical import InferenceRequest, Json

_SIGNATURE_BYTES: Final = 48


def message_of(request: InferenceRequest, canonical: Json) -> Json:
    """The message for the canonical response of a chat."""
    choice = canonical["choices"][0]
    chat = choice.get("message") or {}
    message = empty_message(request, canonical.get("id"))
    blocks: list[Json] = message["content"]
    # White space alone makes no block: models put it between reasoning and calls.
    reasoning = reasoning_of(chat)
    if reasoning.strip():
        thinking = "" if hides_thinking(request) else reasoning
        blocks.append({"type": "thinking", "thinking": thinking, "signature": signature(message["id"], len(blocks))})
    text = chat.get("content") or ""
    if text.strip():
        blocks.append({"type": "text", "text": text})
    names, called, incomplete = long_names(request.original), False, False
    for call in chat.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = arguments_text(function.get("arguments"))
        if arguments is None and choice.get("finish_reason") != "length":
            blocks.append({"type": "text", "text": call_as_text(function.get("name"), function["arguments"])})
            continue
        called, incomplete = True, incomplete or arguments is None
        block = tool_use(message["id"], len(blocks), call.get("id"), function.get("name"), names)
        blocks.append({**block, "input": orjson.Fragment(arguments or "{}")})
    usage = canonical.get("usage")
    message |= stop_fields(request, choice, usage, called=called, incomplete=incomplete)
    message["usage"] = usage_fields(usage)
    return message


def empty_message(request: InferenceRequest, response_id: Any) -> Json:
    """A message without content, as a stream begins with."""
    return {
        "id": f"msg_{str(response_id or '').removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_fields(None),
    }


def reasoning_of(message: Json) -> str:
    """From a message or a delta of a chat."""
    return str(message.get("reasoning") or message.get("reasoning_content") or "")


def tool_use(message_id: str, index: int, call_id: Any, name: Any, names: dict[str, str]) -> Json:
    """A call without its input. The engine's id is kept, because some templates include it in the next prompt."""
    name = str(name or "")
    call_id = str(call_id or f"toolu_{message_id.removeprefix('msg_')}_{index}")
    return {"type": "tool_use", "id": call_id, "name": names.get(name, name), "input": {}}


def hides_thinking(request: InferenceRequest) -> bool:
    """The client wants thinking blocks without their text."""
    return (request.original.get("thinking") or {}).get("display") == "omitted"


def signature(message_id: str, index: int) -> str:
    """Clients return it with the next request. Berth does not evaluate it."""
    digest = hashlib.blake2b(f"{message_id}/{index}".encode(), digest_size=_SIGNATURE_BYTES).digest()
    return base64.b64encode(digest).decode()


def usage_fields(usage: Any) -> Json:
    """Anthropic's input_tokens do not include the cached ones."""
    counts = usage if isinstance(usage, dict) else {}
    cached = token_count(counts.get("prompt_tokens_details"), "cached_tokens")
    fields: Json = {
        "input_tokens": max(0, token_count(counts, "prompt_tokens") - cached),
        "output_tokens": token_count(counts, "completion_tokens"),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }
    thinking = token_count(counts.get("completion_tokens_details"), "reasoning_tokens")
    thinking = thinking or token_count(counts, "reasoning_tokens")
    if thinking:
        fields["output_tokens_details"] = {"thinking_tokens": thinking}
    return fields


def stop_fields(request: InferenceRequest, choice: Json, usage: Any, *, called: bool, incomplete: bool) -> Json:
    """stop_reason and stop_sequence, from the choice with the finish_reason. `called`: there are tool calls.
    `incomplete`: the input of one was cut off.
    """
    finish = choice.get("finish_reason")
    # vLLM and TensorRT-LLM report it in one field, SGLang in another; a number is a token.
    stop = choice.get("stop_reason") or choice.get("matched_stop")
    if finish == "length":
        # Fewer tokens than requested: the context was full.
        fewer = 0 < token_count(usage, "completion_tokens") < (request.original.get("max_tokens") or 0)
        reason = "model_context_window_exceeded" if fewer and not incomplete else "max_tokens"
    elif called:
        reason = "tool_use"
    elif finish == "content_filter":
        reason = "refusal"
    elif isinstance(stop, str) and stop in (request.body.get("stop") or ()):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    else:
        reason = "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}
