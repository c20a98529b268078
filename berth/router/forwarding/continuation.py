"""Whether another engine can continue a stream that was cut, and the request for the rest; pure.

The engine gets the response so far as the beginning of its own and nothing else: no instructions, no text of Berth's.
A stream is continued only if the client cannot see the difference. All other streams end with an error frame.
"""

from typing import Final

from msgspec.structs import replace

from berth import json_text
from berth.canonical import InferenceRequest, Json, Operation, Transcript
from berth.dialects.choices import expected_choices
from berth.plan import Replica
from berth.router.exchange.outcomes import ContinuationBlocker
from berth.sse import DONE, comment, frame

_LIMITS: Final = ("max_tokens", "max_completion_tokens", "min_tokens")
_CONSTRAINTS: Final = (
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "regex", "ebnf"),
    "structural_tag",
)


def blocker(request: InferenceRequest) -> ContinuationBlocker | None:
    """What in the request prevents a continuation, whatever the response."""
    body = request.body
    found = {
        ContinuationBlocker.CHOICES: expected_choices(request) != 1 or (body.get("best_of") or 1) > 1,
        ContinuationBlocker.ECHO: bool(body.get("echo")),
        ContinuationBlocker.LOGPROBS: body.get("prompt_logprobs") is not None
        or not (body.get("logprobs") is None or body["logprobs"] is False),  # 0 is a number of them
        ContinuationBlocker.TOOLS: body.get("tool_choice") not in (None, "none", "auto"),
        ContinuationBlocker.CONSTRAINT: (body.get("response_format") or {}).get("type", "text") != "text"
        or any(body.get(name) for name in _CONSTRAINTS),
        ContinuationBlocker.SEED: body.get("seed") is not None,
        ContinuationBlocker.STOP: bool(body.get("stop")),
        ContinuationBlocker.HIDDEN: bool(body.get("ignore_eos")),
        ContinuationBlocker.PROMPT: request.operation is Operation.COMPLETION
        and not isinstance(body.get("prompt"), str),
        ContinuationBlocker.MODALITY: request.media is not None
        or bool(body.get("audio") or body.get("suffix") or body.get("use_beam_search")),
    }
    return next((reason for reason, applies in found.items() if applies), None)


def joined(before: Transcript, after: Transcript) -> Transcript:
    """What the client has once `after` continued `before`, which may be empty."""
    return replace(
        after,
        text=before.text + after.text,
        tokens=before.tokens + after.tokens,
        reasoned=before.reasoned or after.reasoned,
        called=before.called or after.called,
    )


def blocker_in(so_far: Transcript) -> ContinuationBlocker | None:
    """What in the response so far prevents a continuation."""
    found = {
        ContinuationBlocker.TOOLS: so_far.called,
        ContinuationBlocker.REASONING: so_far.reasoned,
        ContinuationBlocker.BEGINNING: not so_far.id or not so_far.text,
        ContinuationBlocker.BYTES: "\ufffd" in so_far.text,
    }
    return next((reason for reason, applies in found.items() if applies), None)


def is_complete(request: InferenceRequest, so_far: Transcript) -> bool:
    """Only the end was cut off: the requested number of tokens is there."""
    limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
    return limit is not None and so_far.tokens >= limit


def ending(request: InferenceRequest, model: str, so_far: Transcript) -> bytes:
    """The end of a response that is complete except for it."""
    chat = request.operation is Operation.CHAT
    content: Json = {"delta": {}} if chat else {"text": ""}
    choice: Json = {"index": 0, **content, "logprobs": None, "finish_reason": "length"}
    chunk: Json = {
        "id": so_far.id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": so_far.created,
        "model": model,
        "choices": [choice],
    }
    return frame(json_text.dumps(chunk)) + DONE


def notice(before: Replica, after: Replica, so_far: Transcript) -> bytes:
    """A comment, which clients ignore."""
    if before.name == after.name:
        return comment(f"berth continues {after.name} at token {so_far.tokens}")
    return comment(f"berth moved {before.name} -> {after.name} at token {so_far.tokens}")


def continued(request: InferenceRequest, so_far: Transcript) -> InferenceRequest:
    """The request for the rest of the response."""
    rest = {name: max(value - so_far.tokens, 1) for name in _LIMITS if (value := request.body.get(name))}
    body = {**request.body, **rest}
    if request.operation is Operation.COMPLETION:
        body["prompt"] += so_far.text
    else:
        *before, last = body["messages"]
        content = last.get("content")
        if body.get("continue_final_message") and last.get("role") == "assistant" and isinstance(content, str):
            # the client had the model continue a given text
            body["messages"] = [*before, {**last, "content": content + so_far.text}]
        else:
            body["messages"] = [*before, last, {"role": "assistant", "content": so_far.text}]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return replace(request, body=body, resume=so_far)
