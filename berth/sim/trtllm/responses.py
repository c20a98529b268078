"""How TensorRT-LLM 1.2 writes answers and streams: a new id for every chunk, no nulls in the chunks of a chat."""

from collections.abc import Iterator

import orjson

from berth.sim.body_validation import Json, RejectionError
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
from berth.sse import frame

_PACE = {"avg_decoded_tokens_per_iter": 1.0}


class TrtllmFormatter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes:
        choice = self._chat_choice if request.chat else self._completion_choice
        return orjson.dumps(
            {
                **_head(request, "chat.completion" if request.chat else "text_completion"),
                "choices": [choice(request, index, generation) for index, generation in enumerate(generations)],
                "usage": _usage(request, sum(generation.tokens for generation in generations)),
                "prompt_token_ids": None,
            }
        )

    def embeddings(self, request: EmbeddingRequest) -> bytes:
        raise RejectionError(f"{request.model} makes no embeddings", status=404)  # this engine has no route for them

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        deltas = self._chat_deltas if request.chat else self._completion_deltas
        if request.chat:
            for index in range(len(generations)):
                yield 1, b"data: " + self._chat_chunk(request, index, {"role": "assistant"}, tokens=0) + b" \n\n"
        yield from interleaved(deltas(request, index, generation) for index, generation in enumerate(generations))
        done = sum(generation.tokens for generation in generations)
        usage = {**_head(request, "chat.completion.chunk"), "choices": [], "usage": _usage(request, done)}
        yield from final_frames(last_step(generations), *([frame(orjson.dumps(usage))] if request.usage else []))

    def _chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
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
            "finish_reason": _finish(request, generation),
            "stop_reason": generation.stop,
            "mm_embedding_handle": None,
            "disaggregated_params": None,
            **_PACE,
        }

    def _completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        echo = request.echo[index // request.n] if request.echo else ""
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "token_ids": None,
            "logprobs": self._lists(request, generation.pieces, request.prompts[index // request.n] if echo else ()),
            "context_logits": None,
            "finish_reason": generation.finish,
            "stop_reason": generation.stop,
            "disaggregated_params": None,
            **_PACE,
        }

    def _lists(self, request: GenerationRequest, pieces: tuple[Piece, ...], prompt: tuple[int, ...]) -> Json | None:
        if request.top_logprobs is None:
            return None
        return completion_logprobs(self._setup, pieces, request.top_logprobs, prompt=prompt)

    def _chat_deltas(self, request: GenerationRequest, index: int, generation: Generation) -> Iterator[TimedFrame]:
        """The finish reason comes with the last token, or after it where the answer ended by itself."""
        pieces = generation.pieces
        inside = bool(pieces) and (generation.finish == "length" or generation.stop is not None)
        for step, piece in enumerate(pieces, 1):
            finished = generation if inside and step == len(pieces) else None
            delta = _delta(request, piece)
            yield step, frame(self._chat_chunk(request, index, delta, tokens=step, pieces=(piece,), finished=finished))
        if not inside:
            tokens = len(pieces)
            yield tokens + 1, frame(self._chat_chunk(request, index, _words(), tokens=tokens, finished=generation))

    def _chat_chunk(
        self,
        request: GenerationRequest,
        index: int,
        delta: Json,
        *,
        tokens: int,
        pieces: tuple[Piece, ...] = (),
        finished: Generation | None = None,
    ) -> bytes:
        choice: Json = {"index": index, "delta": delta}
        logprobs = chat_logprobs(self._setup, request.top_logprobs, pieces, bytes_first=False)
        if logprobs is not None:
            choice["logprobs"] = logprobs
        if finished is not None:
            choice["finish_reason"] = _finish(request, finished)
            if finished.stop is not None:
                choice["stop_reason"] = finished.stop
        if "role" not in delta:
            choice |= _PACE
        chunk: Json = {**_head(request, "chat.completion.chunk"), "choices": [choice]}
        if request.usage_per_chunk:
            chunk["usage"] = _usage(request, tokens)
        return orjson.dumps(chunk)

    def _completion_deltas(
        self, request: GenerationRequest, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        pieces = generation.pieces
        inside = bool(pieces) and (generation.finish == "length" or generation.stop is not None)
        echo = request.echo[index // request.n] if request.echo else ""
        for step, piece in enumerate(pieces, 1):
            finished = generation if inside and step == len(pieces) else None
            text = echo + piece.text if step == 1 else piece.text
            yield (
                step,
                frame(self._completion_chunk(request, index, text, tokens=step, pieces=(piece,), finished=finished)),
            )
        if not inside:
            text = "" if pieces else echo
            tokens = len(pieces)
            yield tokens + 1, frame(self._completion_chunk(request, index, text, tokens=tokens, finished=generation))

    def _completion_chunk(
        self,
        request: GenerationRequest,
        index: int,
        text: str,
        *,
        tokens: int,
        pieces: tuple[Piece, ...] = (),
        finished: Generation | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "text": text,
            "token_ids": None,
            "logprobs": self._lists(request, pieces, ()) if pieces else None,
            "finish_reason": None if finished is None else finished.finish,
            "stop_reason": None if finished is None else finished.stop,
            **_PACE,
        }
        usage = _usage(request, tokens) if request.usage_per_chunk else None
        return orjson.dumps({**_head(request, "text_completion"), "choices": [choice], "usage": usage})


def _head(request: GenerationRequest, kind: str) -> Json:
    """Called for every chunk: each has an id of its own."""
    prefix = "chatcmpl" if kind.startswith("chat.") else "cmpl"
    return {"id": f"{prefix}-{hex_id(32)}", "object": kind, "created": now(), "model": request.model}


def _finish(request: GenerationRequest, generation: Generation) -> str:
    named = request.tool is not None and request.tool.named
    return "stop" if named and generation.finish == "tool_calls" else generation.finish


def _words(content: str = "", reasoning: str = "") -> Json:
    """Both texts are always there."""
    return {"content": content, "reasoning_content": reasoning}


def _delta(request: GenerationRequest, piece: Piece) -> Json:
    if piece.kind is Kind.REASONING:
        return _words(reasoning=piece.text)
    if piece.kind is Kind.CONTENT:
        return _words(piece.text)
    if request.tool is not None and request.tool.named:
        return {"tool_calls": [_named_call(request.tool.name, piece)]}
    function: Json = {"arguments": piece.text}
    call: Json = {"type": "function", "index": 0, "function": function}
    if piece.kind is Kind.TOOL_NAME:
        call = {"id": f"chatcmpl-tool-{hex_id(32)}", **call, "function": {"name": piece.text, "arguments": ""}}
    return {**_words(), "tool_calls": [call]}


def _named_call(name: str, piece: Piece) -> Json:
    """A tool that the request named: every delta is a whole call, with a new id and without an index."""
    arguments = piece.text if piece.kind is Kind.ARGUMENTS else ""
    return {
        "id": f"chatcmpl-tool-{hex_id(32)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _usage(request: GenerationRequest, done: int) -> Json:
    return {
        "prompt_tokens": request.prompt_tokens,
        "total_tokens": request.prompt_tokens + done,
        "completion_tokens": done,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
