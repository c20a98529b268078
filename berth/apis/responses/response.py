"""A response and its output items, from a canonical response."""

from typing import Final

import orjson

from berth import json_text
from berth.apis.responses.client_tools import TOOLS
from berth.apis.responses.items import sealed
from berth.apis.responses.request import ResponsesRequest
from berth.apis.responses.tools import custom_input
from berth.apis.usage import token_count
from berth.canonical import Json
from berth.errors import ApiError, ContextLengthError, InvalidRequestError, OverloadedError

# finish_reason -> the reason of an incomplete response; with all others it is completed
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
    """The response object. `usage` is canonical; None where the engine reported none."""
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
    """Of a response and its last item."""
    return "incomplete" if finish in INCOMPLETE else "completed"


def output_of(request: ResponsesRequest, choice: Json) -> list[Json]:
    """The items of a non-streaming response: reasoning, text, calls. The last is incomplete where the response is."""
    message, finish = choice["message"], choice.get("finish_reason")
    text = message.get("content") or message.get("refusal") or ""  # clients get either as text
    reasoning, calls = message.get("reasoning"), message.get("tool_calls") or ()
    last_status = status_of(finish)
    output: list[Json] = []
    if reasoning:
        status = "completed" if text or calls else last_status
        output.append(reasoning_item(request, 0, reasoning, status))
    if text or (not output and not calls):
        status = "completed" if calls else last_status
        output.append(message_item(request, len(output), text, status, logprobs_of(choice)))
    for call in calls:
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        status = call_status(finish, complete=is_object(arguments))
        output.append(call_item(request, len(output), call.get("id"), name, arguments, status=status))
    return output


def item_id(request: ResponsesRequest, prefix: str, index: int) -> str:
    return f"{prefix}_{request.token}_{index}"


def reasoning_item(request: ResponsesRequest, index: int, text: str, status: str) -> Json:
    """Engines return the reasoning itself. It is put where the client looks for it: the summary or the content."""
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
    """The call of a function or a custom tool. A call without an id gets one, which the tool's output refers to."""
    origin = request.origins.get(name)
    fields: Json = {"status": status, "call_id": call_id or f"call_{request.token}_{index}", "name": name}
    if origin is not None:
        fields |= {"name": origin.name} | ({"namespace": origin.namespace} if origin.namespace else {})
    if origin is not None and origin.kind:
        tool, kind = TOOLS[origin.kind], f"{origin.kind}_call"
        found = tool.empty if status == "in_progress" else tool.call(arguments)
        if found is not None:
            del fields["name"]
            return {"id": item_id(request, tool.prefix, index), "type": kind, **fields, **found}
    if origin is not None and origin.custom:
        text = custom_input(arguments) if arguments else ""
        return {"id": item_id(request, "ctc", index), "type": "custom_tool_call", **fields, "input": text}
    if status == "completed":
        arguments = arguments or "{}"  # of a function without parameters; clients parse them as JSON
    return {"id": item_id(request, "fc", index), "type": "function_call", **fields, "arguments": arguments}


def call_status(finish: str | None, *, complete: bool) -> str:
    return "completed" if complete else status_of(finish)


def is_object(arguments: str) -> bool:
    """The arguments are a complete JSON object: only white space can follow."""
    text = arguments.strip()
    if not text.startswith("{") or not text.endswith("}"):
        return False
    try:
        json_text.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def logprobs_of(choice: Json) -> list[Json]:
    content = (choice.get("logprobs") or {}).get("content") or ()
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in token.get("top_logprobs") or ()]}
        for token in content
    ]


def usage_of(usage: Json) -> Json:
    """All counts are present, as some clients require."""
    prompt, completion = token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens")
    reasoning = token_count(usage.get("completion_tokens_details"), "reasoning_tokens")
    cached = token_count(usage.get("prompt_tokens_details"), "cached_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def error_of(error: ApiError) -> Json:
    """The error in a failed response. Codex acts on these codes: it shortens the conversation, waits for the time in
    the message, or retries.
    """
    if isinstance(error, ContextLengthError):
        return {"code": "context_length_exceeded", "message": error.message}
    if isinstance(error, OverloadedError):
        wait = "" if error.retry_after_s is None else f" Please try again in {error.retry_after_s:.1f}s."
        return {"code": "rate_limit_exceeded", "message": error.message + wait, **error.extension}
    code = "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
    return {"code": code, "message": error.message, **error.extension}


def _logprob(token: Json) -> Json:
    text = token["token"]
    return {
        "token": text,
        "bytes": token.get("bytes") or list(text.encode("utf-8", "surrogatepass")),
        "logprob": token["logprob"],
    }
