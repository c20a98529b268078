"""The canonical requests of Ollama's chat and generate, from documents whose fields were checked."""

import time
from typing import Final

from berth.apis.ollama.fields import generation_fields, ignored_fields, is_streamed, thinking_fields
from berth.apis.ollama.messages import continues_last
from berth.canonical import InferenceRequest, Json, Operation

# For a completion without num_predict. Ollama has no limit then; engines default to 16, and reject more than their
# context.
COMPLETION_TOKENS: Final = 1024


class TimedRequest(InferenceRequest, frozen=True, kw_only=True):
    """Ollama's responses report durations."""

    begun_ns: int  # time.monotonic_ns() when the request was parsed


def begun_ns(request: InferenceRequest) -> int:
    return request.begun_ns if isinstance(request, TimedRequest) else time.monotonic_ns()


def chat_request(document: Json, messages: list[Json], begun_ns: int, ignored: tuple[str, ...]) -> TimedRequest:
    body: Json = {"model": document["model"], "messages": messages, **generation_fields(document)}
    if continues_last(messages):  # no thinking: it would be over by now, and engines take the rest of the text for it
        body |= {"continue_final_message": True, "add_generation_prompt": False, **thinking_fields(False)}
    else:
        body |= thinking_fields(document.get("think"))
    if document.get("logprobs"):
        body |= {"logprobs": True, "top_logprobs": document.get("top_logprobs") or 0}
    return _request(Operation.CHAT, document, body, begun_ns, ignored)


def completion_request(document: Json, begun_ns: int) -> TimedRequest:
    body: Json = {"model": document["model"], "prompt": document["prompt"], "max_tokens": COMPLETION_TOKENS}
    body |= generation_fields(document)
    if document.get("suffix"):
        body["suffix"] = document["suffix"]
    if document.get("logprobs"):
        body["logprobs"] = document.get("top_logprobs") or 1  # some engines return none for 0
    ignored = ignored_fields(document, "context", "system", "think")
    return _request(Operation.COMPLETION, document, body, begun_ns, ignored)


def _request(operation: Operation, document: Json, body: Json, begun_ns: int, ignored: tuple[str, ...]) -> TimedRequest:
    stream = is_streamed(document)
    if stream:
        body = {**body, "stream": True}
    return TimedRequest(
        operation=operation,
        model=document["model"],
        body=body,
        stream=stream,
        include_usage=stream,
        original=document,
        ignored=ignored,
        at_most=operation is Operation.CHAT,
        begun_ns=begun_ns,
    )
