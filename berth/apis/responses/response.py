"""A response and its output items, from a canonical answer."""

from typing import Any, Final

import orjson

from berth.apis.responses.items import sealed
from berth.apis.responses.request import ResponsesRequest
from berth.apis.responses.tools import custom_input
from berth.canonical import Json
from berth.errors import ApiError, ContextLengthError, InvalidRequestError, OverloadedError

# finish_reason -> why a response is incomplete; with all others it is completed
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_of(
    request: ResponsesRequest,
    status: str,
    output: list[Json],
    *,
    finish: str | None = None,
    usage: Json | None = None,
    error: Json | None = None,
) -> Json:
    """The response object. `usage`: a canonical one; None where the engine told none."""
    return {
        "id": request.id,
        "object": "response",
        "created_at": request.created_at,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": INCOMPLETE[finish]} if finish in INCOMPLETE else None,
        "model": request.model,
        "output": output,
        "usage": None if usage is None else usage_of(usage),
        **request.settings,
    }


def status_of(finish: str | None) -> str:
    """Of a response, and of what was being said when it ended."""
    return "incomplete" if finish in INCOMPLETE else "completed"


def output_of(request: ResponsesRequest, choice: Json) -> list[Json]:
    """The items of a whole answer: reasoning, text, calls. What came last is incomplete where the answer is."""
    message, finish = choice["message"], choice.get("finish_reason")
    text = message.get("content") or message.get("refusal")  # engines do not tell refusals from other text
    reasoning, calls = message.get("reasoning"), message.get("tool_calls") or ()
    output: list[Json] = []
    if reasoning:
        status = "completed" if text or calls else status_of(finish)
        output.append(reasoning_item(request, 0, reasoning, status))
    if text or not (reasoning or calls):
        status = "completed" if calls else status_of(finish)
        output.append(message_item(request, len(output), text or "", status, logprobs_of(choice)))
    for call in calls:
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        status = call_status(finish, whole=is_whole(arguments))
        output.append(call_item(request, len(output), call.get("id"), name, arguments, status=status))
    return output


def item_id(request: ResponsesRequest, prefix: str, index: int) -> str:
    return f"{prefix}_{request.token}_{index}"


def reasoning_item(request: ResponsesRequest, index: int, text: str, status: str) -> Json:
    """What the engine gives is the reasoning itself; it stands where the client will look for it."""
    kind = "summary_text" if request.summarises else "reasoning_text"
    parts = [{"type": kind, "text": text}] if text else []
    item = {
        "id": item_id(request, "rs", index),
        "type": "reasoning",
        "status": status,
        "summary": parts if request.summarises else [],
        "content": [] if request.summarises else parts,
    }
    return {**item, "encrypted_content": sealed(text)} if request.seals_reasoning else item


def message_item(request: ResponsesRequest, index: int, text: str, status: str, logprobs: list[Json]) -> Json:
    part = text_part(text, logprobs)
    fields = {"type": "message", "role": "assistant", "status": status, "content": [part]}
    return {"id": item_id(request, "msg", index), **fields}


def text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(
    request: ResponsesRequest, index: int, call_id: str | None, name: str, arguments: str, *, status: str
) -> Json:
    """A function's call, or a custom tool's. An engine that gave no id gets one: the output refers to it."""
    origin = request.origins.get(name)
    fields: Json = {"status": status, "call_id": call_id or f"call_{request.token}_{index}", "name": name}
    if origin is not None:
        fields |= {"name": origin.name} | ({"namespace": origin.namespace} if origin.namespace else {})
    if origin is not None and origin.custom:
        text = custom_input(arguments) if arguments else ""
        return {"id": item_id(request, "ctc", index), "type": "custom_tool_call", **fields, "input": text}
    if status == "completed":
        arguments = arguments or "{}"  # of a function without parameters; clients read them as JSON
    return {"id": item_id(request, "fc", index), "type": "function_call", **fields, "arguments": arguments}


def call_status(finish: str | None, *, whole: bool) -> str:
    return "completed" if whole else status_of(finish)


def is_whole(arguments: str) -> bool:
    """Nothing but white space can follow these arguments: they are a JSON object."""
    text = arguments.strip()
    return text.startswith("{") and text.endswith("}") and _is_json(text)


def logprobs_of(choice: Json) -> list[Json]:
    content = (choice.get("logprobs") or {}).get("content") or ()
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in token.get("top_logprobs") or ()]}
        for token in content
    ]


def usage_of(usage: Json) -> Json:
    """Every number is there, for clients that insist."""
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def error_of(error: ApiError) -> Json:
    """The error inside a failed response. Codex acts on these codes: it makes its conversation shorter, waits as long
    as the message says, or tries again.
    """
    if isinstance(error, ContextLengthError):
        return {"code": "context_length_exceeded", "message": error.message}
    if isinstance(error, OverloadedError):
        wait = "" if error.retry_after_s is None else f" Please try again in {error.retry_after_s:.1f}s."
        return {"code": "rate_limit_exceeded", "message": error.message + wait}
    code = "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
    return {"code": code, "message": error.message}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _logprob(token: Json) -> Json:
    text = token["token"]
    return {"token": text, "bytes": token.get("bytes") or list(text.encode()), "logprob": token["logprob"]}


def _count(fields: Any, name: str) -> int:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, int) else 0
