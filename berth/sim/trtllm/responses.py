"""How TensorRT-LLM 1.2 formats responses and streams: a new id in every chunk, no nulls in the chunks of a chat."""

from collections.abc import Iterator, Sequence

import orjson

from berth.sim.body_validation import Json, RejectionError
from berth.sim.common_responses import (
    BaseFormatter,
    chat_logprobs,
    completion_logprobs,
    hex_id,
    now,
    tool_call,
)
from berth.sim.dialect import EmbeddingRequest, TimedFrame
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece
from berth.sse import frame

_PACE = {"avg_decoded_tokens_per_iter": 1.0}


class TrtllmFormatter(BaseFormatter):
    def embeddings(self, request: EmbeddingRequest) -> bytes:
        raise RejectionError(f"{request.model} makes no embeddings", status=404)  # this engine has no route for them

    def full_body(self, request: GenerationRequest, choices: list[Json], generations: tuple[Generation, ...]) -> Json:
        return {
            **_head(request, "chat.completion" if request.chat else "text_completion"),
            "choices": choices,
            "usage": _usage(request, sum(one.tokens for one in generations)),
            "prompt_token_ids": None,
        }

    def chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        call = tool_call(generation)
        calls = []
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            calls = [{"id": f"chatcmpl-tool-{hex_id(32)}", "type": "function", "function": function}]
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(request.echo) + generation.text(Kind.CONTENT),
                "reasoning_content": generation.text(Kind.REASONING),
                "reasoning": None,
                "tool_calls": calls,
            },
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, generation.pieces, bytes_first=False),
            "finish_reason": _finish_reason(request, generation),
            "stop_reason": generation.stop,
            "mm_embedding_handle": None,
            "disaggregated_params": None,
            **_PACE,
        }

    def completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        echo = request.echo[index // request.n] if request.echo else ""
        prompt = request.prompts[index // request.n] if echo else ()
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "token_ids": None,
            "logprobs": self._completion_logprobs(request, generation.pieces, prompt),
            "context_logits": None,
            "finish_reason": generation.finish,
            "stop_reason": generation.stop,
            "disaggregated_params": None,
            **_PACE,
        }

    def _completion_logprobs(
        self, request: GenerationRequest, pieces: tuple[Piece, ...], prompt: tuple[int, ...]
    ) -> Json | None:
        if request.top_logprobs is None:
            return None
        return completion_logprobs(self._setup, pieces, request.top_logprobs, prompt=prompt)

    def heads(self, request: GenerationRequest, choices: int) -> Sequence[Json]:
        return [{}] * choices  # every chunk has an id of its own

    def opening_frames(self, request: GenerationRequest, heads: Sequence[Json]) -> Iterator[bytes]:
        for index in range(len(heads) if request.chat else 0):
            choice = {"index": index, "delta": {"role": "assistant"}}
            chunk = {**_head(request, "chat.completion.chunk"), "choices": [choice]}
            if request.usage_per_chunk:
                chunk["usage"] = _usage(request, 0)
            yield b"data: " + orjson.dumps(chunk) + b" \n\n"

    def chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        for step, pieces, is_last in generation.chunks():
            choice: Json = {"index": index, "delta": _delta(request, pieces[0]) if pieces else _texts()}
            logprobs = chat_logprobs(self._setup, request.top_logprobs, pieces, bytes_first=False)
            if logprobs is not None:
                choice["logprobs"] = logprobs
            if is_last:
                choice["finish_reason"] = _finish_reason(request, generation)
                if generation.stop is not None:
                    choice["stop_reason"] = generation.stop
            choice |= _PACE
            chunk: Json = {**_head(request, "chat.completion.chunk"), "choices": [choice]}
            if request.usage_per_chunk:
                chunk["usage"] = _usage(request, min(step, len(generation.pieces)))
            yield step, frame(orjson.dumps(chunk))

    def completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        for step, pieces, is_last in generation.chunks():
            echo = request.echo[index // request.n] if request.echo and step == 1 else ""
            choice = {
                "index": index,
                "text": echo + "".join(piece.text for piece in pieces),
                "token_ids": None,
                "logprobs": self._completion_logprobs(request, pieces, ()) if pieces else None,
                "finish_reason": generation.finish if is_last else None,
                "stop_reason": generation.stop if is_last else None,
                **_PACE,
            }
            usage = _usage(request, min(step, len(generation.pieces))) if request.usage_per_chunk else None
            yield step, frame(orjson.dumps({**_head(request, "text_completion"), "choices": [choice], "usage": usage}))

    def closing_frames(
        self, request: GenerationRequest, head: Json, generations: tuple[Generation, ...]
    ) -> Iterator[bytes]:
        if request.usage:
            usage = _usage(request, sum(one.tokens for one in generations))
            yield frame(orjson.dumps({**_head(request, "chat.completion.chunk"), "choices": [], "usage": usage}))


def _head(request: GenerationRequest, kind: str) -> Json:
    """Called for every chunk, because each has its own id."""
    prefix = "chatcmpl" if kind.startswith("chat.") else "cmpl"
    return {"id": f"{prefix}-{hex_id(32)}", "object": kind, "created": now(), "model": request.model}


def _finish_reason(request: GenerationRequest, generation: Generation) -> str:
    named = request.tool is not None and request.tool.named
    return "stop" if named and generation.finish == "tool_calls" else generation.finish


def _texts(content: str = "", reasoning: str = "") -> Json:
    """Both fields are always present."""
    return {"content": content, "reasoning_content": reasoning}


def _delta(request: GenerationRequest, piece: Piece) -> Json:
    if piece.kind is Kind.REASONING:
        return _texts(reasoning=piece.text)
    if piece.kind is Kind.CONTENT:
        return _texts(piece.text)
    call_id = f"chatcmpl-tool-{hex_id(32)}"
    if (
        request.tool is not None and request.tool.named
    ):  # every delta is a full call, with a new id and without an index
        function = {"name": request.tool.name, "arguments": piece.text if piece.kind is Kind.ARGUMENTS else ""}
        return {"tool_calls": [{"id": call_id, "type": "function", "function": function}]}
    call: Json = {"type": "function", "index": 0, "function": {"arguments": piece.text}}
    if piece.kind is Kind.TOOL_NAME:
        call = {"id": call_id, **call, "function": {"name": piece.text, "arguments": ""}}
    return {**_texts(), "tool_calls": [call]}


def _usage(request: GenerationRequest, done: int) -> Json:
    return {
        "prompt_tokens": request.prompt_tokens,
        "total_tokens": request.prompt_tokens + done,
        "completion_tokens": done,
        "prompt_tokens_details": {"cached_tokens": request.cached_tokens},
    }
