"""How SGLang 0.5 writes answers and streams: bare ids, matched_stop, reasoning_content, metadata."""

from collections.abc import Iterator
from typing import Any

import orjson

from berth.sim.body_validation import Json
from berth.sim.common_responses import (
    chat_logprobs,
    completion_logprobs,
    final_frames,
    hex_id,
    interleaved,
    last_step,
    now,
    tool_call,
)
from berth.sim.dialect import EmbeddingRequest, Setup, TimedFrame
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece
from berth.sim.pooling import as_base64, unit_vector
from berth.sim.tokenizer import END
from berth.sse import frame


class SglangFormatter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes:
        choice = self._chat_choice if request.chat else self._completion_choice
        longest = max(generation.tokens for generation in generations)
        return orjson.dumps(
            {
                **_head(
                    request, "chat.completion" if request.chat else "text_completion", request.request_id or hex_id(32)
                ),
                "choices": [choice(request, index, generation) for index, generation in enumerate(generations)],
                "usage": _usage(request, generations),
                "metadata": {
                    "weight_version": "default",
                    "weight_versions": [{"version": "default", "start": 0, "end": longest}],
                },
            }
        )

    def embeddings(self, request: EmbeddingRequest) -> bytes:
        vectors = [unit_vector(one, self._options.dimensions) for one in request.inputs]
        tokens = sum(len(one) for one in request.inputs)
        return orjson.dumps(
            {
                "data": [
                    {"embedding": as_base64(one) if request.base64 else one, "index": index, "object": "embedding"}
                    for index, one in enumerate(vectors)
                ],
                "model": request.model,
                "object": "list",
                "usage": _counts(tokens, 0, 0),
            }
        )

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        """Each choice has an id of its own; whatever comes after the tokens carries the last one's."""
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        heads = [_head(request, kind, request.request_id or hex_id(32)) for _ in generations]
        deltas = self._chat_deltas if request.chat else self._completion_deltas
        yield from interleaved(
            deltas(request, heads[index], index, generation) for index, generation in enumerate(generations)
        )
        last = last_step(generations)
        if request.chat:
            for index, generation in enumerate(generations):
                yield last, _chat_frame(heads[-1], index, {"reasoning_content": None}, finish=_finish(generation))
        usage = _usage(request, generations)
        if not request.chat:
            usage = {key: value for key, value in usage.items() if not key.endswith("_details")}
        chunk = {**heads[-1], "choices": [], "usage": usage}
        yield from final_frames(last, *([frame(orjson.dumps(chunk))] if request.usage else []))

    def _chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        call = tool_call(generation)
        message: Json = {
            "role": "assistant",
            "content": generation.text(Kind.CONTENT),
            "reasoning_content": generation.text(Kind.REASONING) or None,
        }
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            message["tool_calls"] = [{"id": _call_id(), "index": 0, "type": "function", "function": function}]
        reason, stop = _finish(generation)
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, generation.pieces, bytes_first=True),
            "finish_reason": reason,
            "matched_stop": None if reason == "tool_calls" else stop,
        }

    def _completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        echo = request.echo[index // request.n] if request.echo else ""
        reason, stop = _finish(generation)
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "logprobs": self._lists(request, generation.pieces, request.prompts[index // request.n] if echo else ()),
            "finish_reason": reason,
            "matched_stop": stop,
        }

    def _lists(self, request: GenerationRequest, pieces: tuple[Piece, ...], prompt: tuple[int, ...]) -> Json | None:
        if request.top_logprobs is None:
            return None
        lists = completion_logprobs(self._setup, pieces, request.top_logprobs, prompt=prompt)
        return {**lists, "text_offset": [-1] * len(lists["tokens"])}

    def _chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        opening = {"reasoning_content": None, "role": "assistant", "content": ""}
        yield 1, _chat_frame(head, index, opening)
        for step, piece in enumerate(generation.pieces, 1):
            if piece.kind in (Kind.TOOL_NAME, Kind.ARGUMENTS):
                yield step, _tool_frame(head, index, piece)
            elif piece.text:
                logprobs = chat_logprobs(self._setup, request.top_logprobs, (piece,), bytes_first=True)
                usage = (
                    _counts(request.prompt_tokens, step, _thoughts(generation, step))
                    if request.usage_per_chunk
                    else None
                )
                yield step, _chat_frame(head, index, _delta(piece), logprobs=logprobs, usage=usage)

    def _completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        pieces = generation.pieces
        echo = request.echo[index // request.n] if request.echo else ""
        for step, piece in enumerate(pieces, 1):
            finish = _finish(generation) if step == len(pieces) else (None, None)
            text = echo + piece.text if step == 1 else piece.text
            yield step, _completion_frame(head, index, text, self._lists(request, (piece,), ()), finish)
        if not pieces:
            yield 1, _completion_frame(head, index, echo, None, _finish(generation))


Finish = tuple[str | None, str | int | None]


def _head(request: GenerationRequest, kind: str, answer_id: str) -> Json:
    return {"id": answer_id, "object": kind, "created": now(), "model": request.model}


def _finish(generation: Generation) -> Finish:
    """The reason and what matched: a stop string, or the id of the end token."""
    ended = generation.finish in ("stop", "tool_calls") and generation.stop is None
    return generation.finish, END if ended else generation.stop


def _delta(piece: Piece) -> Json:
    if piece.kind is Kind.REASONING:
        return {"reasoning_content": piece.text}
    return {"reasoning_content": None, "content": piece.text}


def _chat_frame(
    head: Json,
    index: int,
    delta: Json,
    *,
    logprobs: Json | None = None,
    finish: Finish = (None, None),
    usage: Json | None = None,
) -> bytes:
    choice = {
        "index": index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": finish[0],
        "matched_stop": finish[1],
    }
    chunk = {**head, "choices": [choice]}
    return frame(orjson.dumps(chunk if usage is None else {**chunk, "usage": usage}))


def _tool_frame(head: Json, index: int, piece: Piece) -> bytes:
    name = piece.kind is Kind.TOOL_NAME
    call = {
        "id": _call_id() if name else None,
        "index": 0,
        "type": "function",
        "function": {"name": piece.text, "arguments": ""} if name else {"name": None, "arguments": piece.text},
    }
    delta = {"role": None, "content": None, "reasoning_content": None, "tool_calls": [call]}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, "matched_stop": None}
    return frame(orjson.dumps({**head, "choices": [choice], "usage": None}))


def _completion_frame(head: Json, index: int, text: str, logprobs: Json | None, finish: Finish) -> bytes:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish[0], "matched_stop": finish[1]}
    return frame(orjson.dumps({**head, "choices": [choice], "usage": None}))


def _call_id() -> str:
    return f"call_{hex_id(24)}"


def _thoughts(generation: Generation, tokens: int) -> int:
    return min(tokens, generation.count(Kind.REASONING))


def _usage(request: GenerationRequest, generations: tuple[Generation, ...]) -> Json:
    thoughts = sum(generation.count(Kind.REASONING) for generation in generations)
    return _counts(request.prompt_tokens, sum(generation.tokens for generation in generations), thoughts)


def _counts(prompt: int, done: int, thoughts: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + done,
        "completion_tokens": done,
        "prompt_tokens_details": None,
        "reasoning_tokens": thoughts,
        "completion_tokens_details": {"reasoning_tokens": thoughts} if thoughts else None,
    }
