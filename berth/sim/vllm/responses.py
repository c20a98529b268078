"""How vLLM 0.32 writes answers and streams: every field in its recorded order, the null ones too."""

import hashlib
from collections.abc import Iterator

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
    token_logprobs,
    tool_call,
)
from berth.sim.dialect import EmbeddingRequest, Setup, TimedFrame
from berth.sim.generation import Generation, GenerationRequest, Kind, Piece
from berth.sim.options import Reasoning
from berth.sim.pooling import as_base64, unit_vector
from berth.sse import frame

VERSION = "0.32.0"


class VllmFormatter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options
        digest = hashlib.sha256(repr(setup.options).encode()).hexdigest()
        self._fingerprint = f"vllm-{VERSION}-{digest[:8]}"

    def response(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> bytes:
        choice = self._chat_choice if request.chat else self._completion_choice
        answer: Json = {
            **_head(request, "chat.completion" if request.chat else "text_completion"),
            "choices": [choice(request, index, generation) for index, generation in enumerate(generations)],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": _usage(
                request.prompt_tokens,
                sum(generation.tokens for generation in generations),
                self._details(request, generations),
            ),
        }
        if request.chat:
            answer["prompt_logprobs"] = self._prompt_logprobs(request, request.prompts[0])
            answer["prompt_token_ids"] = list(request.prompts[0]) if request.return_token_ids else None
            answer["prompt_text"] = None
        return orjson.dumps({**answer, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None})

    def embeddings(self, request: EmbeddingRequest) -> bytes:
        vectors = [unit_vector(one, self._options.dimensions) for one in request.inputs]
        return orjson.dumps(
            {
                "id": f"embd-{hex_id()}",
                "object": "list",
                "created": now(),
                "model": request.model,
                "data": [
                    {"index": index, "object": "embedding", "embedding": as_base64(one) if request.base64 else one}
                    for index, one in enumerate(vectors)
                ],
                "usage": _usage(sum(len(one) for one in request.inputs), 0, None),
            }
        )

    def frames(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Iterator[TimedFrame]:
        head = _head(request, "chat.completion.chunk" if request.chat else "text_completion")
        if request.chat:
            for index in range(len(generations)):
                yield 1, self._opening(request, head, index)
        deltas = self._chat_deltas if request.chat else self._completion_deltas
        yield from interleaved(deltas(request, head, index, generation) for index, generation in enumerate(generations))
        usage = [self._usage_frame(request, head, generations)] if request.usage else []
        yield from final_frames(last_step(generations), *usage)

    def _chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        call = tool_call(generation)
        thoughts = generation.text(Kind.REASONING)
        content: str | None = "".join(request.echo) + generation.text(Kind.CONTENT)
        if (thoughts and not content) or (call is not None and request.tool is not None and not request.tool.forced):
            content = None
        message: Json = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            message["tool_calls"] = [{"id": f"chatcmpl-tool-{hex_id()}", "type": "function", "function": function}]
        message["reasoning"] = None if request.hide_reasoning else thoughts or None
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, generation.pieces, bytes_first=False),
            "finish_reason": _finish(request, generation),
            "stop_reason": generation.stop,
            "token_ids": _token_ids(request, generation.pieces),
            "routed_experts": None,
        }

    def _completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        prompt = request.prompts[index // request.n]
        echo = request.echo[index // request.n] if request.echo else ""
        shown = prompt if echo else ()
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "logprobs": None
            if request.top_logprobs is None
            else completion_logprobs(self._setup, generation.pieces, request.top_logprobs, prompt=shown),
            "finish_reason": generation.finish,
            "stop_reason": generation.stop,
            "token_ids": _token_ids(request, generation.pieces),
            "prompt_logprobs": self._prompt_logprobs(request, prompt),
            "prompt_token_ids": list(prompt) if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _prompt_logprobs(self, request: GenerationRequest, prompt: tuple[int, ...]) -> list[Json | None] | None:
        if request.prompt_logprobs is None:
            return None
        shown: list[Json | None] = [None]
        for token in prompt[1:]:
            text, value = token_logprobs(self._setup, token, 1)[0]
            shown.append({str(token): {"logprob": value, "rank": 1, "decoded_token": text}})
        return shown

    def _details(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Json | None:
        if self._options.reasoning is Reasoning.OFF or not request.chat:
            return None
        return {"reasoning_tokens": sum(generation.count(Kind.REASONING) for generation in generations)}

    def _opening(self, request: GenerationRequest, head: Json, index: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        chunk = {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
        if request.usage_per_chunk:
            chunk["usage"] = _running_usage(request, 0)
        ids = list(request.prompts[0]) if request.return_token_ids else None
        return frame(orjson.dumps({**chunk, "prompt_token_ids": ids, "prompt_text": None}))

    def _chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        """The finish reason comes with the last token; one that ends by itself has a frame of its own for it."""
        pieces = generation.pieces
        inside = bool(pieces) and (generation.finish == "length" or generation.stop is not None)
        for step, (piece, delta) in enumerate(_deltas(request, generation), 1):
            finished = generation if inside and step == len(pieces) else None
            if delta or finished is not None:
                part = self._chat_part(request, index, delta, pieces=(piece,), finished=finished)
                yield step, self._chunk(request, head, part, step, last=finished is not None)
        if not inside:
            part = self._chat_part(request, index, {}, pieces=(), finished=generation)
            yield len(pieces) + 1, self._chunk(request, head, part, len(pieces), last=True)

    def _chat_part(
        self,
        request: GenerationRequest,
        index: int,
        delta: Json,
        *,
        pieces: tuple[Piece, ...],
        finished: Generation | None,
    ) -> Json:
        part: Json = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, pieces, bytes_first=False),
            "finish_reason": None if finished is None else _finish(request, finished),
        }
        if finished is not None:
            part["stop_reason"] = finished.stop
        part["token_ids"] = _token_ids(request, pieces) if pieces else None
        return part

    def _completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        pieces = generation.pieces
        inside = bool(pieces) and (generation.finish == "length" or generation.stop is not None)
        for step, piece in enumerate(pieces, 1):
            last = inside and step == len(pieces)
            part = self._completion_part(request, index, (piece,), generation if last else None, first=step == 1)
            yield step, self._chunk(request, head, part, step, last=last)
        if not inside:
            part = self._completion_part(request, index, (), generation, first=not pieces)
            yield len(pieces) + 1, self._chunk(request, head, part, len(pieces), last=True)

    def _completion_part(
        self,
        request: GenerationRequest,
        index: int,
        pieces: tuple[Piece, ...],
        finished: Generation | None,
        *,
        first: bool,
    ) -> Json:
        echo = request.echo[index // request.n] if request.echo and first else ""
        shown = request.top_logprobs is not None and bool(pieces)
        ids = request.prompts[index // request.n] if first and (request.echo or request.return_token_ids) else None
        return {
            "index": index,
            "text": echo + "".join(piece.text for piece in pieces),
            "logprobs": completion_logprobs(self._setup, pieces, request.top_logprobs or 0) if shown else None,
            "finish_reason": None if finished is None else finished.finish,
            "stop_reason": None if finished is None else finished.stop,
            "prompt_token_ids": None if ids is None else list(ids),
            "token_ids": _token_ids(request, pieces),
        }

    def _chunk(self, request: GenerationRequest, head: Json, part: Json, tokens: int, *, last: bool) -> bytes:
        chunk = {**head, "choices": [part]}
        if request.usage_per_chunk:
            chunk["usage"] = _running_usage(request, tokens)
        if last and not request.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return frame(orjson.dumps(chunk))

    def _usage_frame(self, request: GenerationRequest, head: Json, generations: tuple[Generation, ...]) -> bytes:
        done = sum(generation.tokens for generation in generations)
        usage: Json = {
            "prompt_tokens": request.prompt_tokens,
            "total_tokens": request.prompt_tokens + done,
            "completion_tokens": done,
        }
        details = self._details(request, generations)
        if details is not None:
            usage["completion_tokens_details"] = details
        return frame(orjson.dumps({**head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint}))


def _deltas(request: GenerationRequest, generation: Generation) -> Iterator[tuple[Piece, Json]]:
    """The delta of each token; {} where it was sent with the one before or has no text.

    A call that the model chose itself begins with name and first arguments in one array, both for the same index.
    """
    pieces = generation.pieces
    joined = request.tool is not None and not request.tool.named
    for at, piece in enumerate(pieces):
        if joined and at and pieces[at - 1].kind is Kind.TOOL_NAME:
            yield piece, {}
        else:
            yield piece, _delta(request, piece, pieces[at + 1 : at + 2] if joined else ())


def _delta(request: GenerationRequest, piece: Piece, following: tuple[Piece, ...]) -> Json:
    if piece.kind is Kind.TOOL_NAME:
        call_id = f"chatcmpl-tool-{hex_id()}"
        calls: list[Json] = [{"id": call_id, "type": "function", "index": 0, "function": {"name": piece.text}}]
        calls += [{"index": 0, "function": {"arguments": one.text}} for one in following]
        return {"content": None, "tool_calls": calls}
    if not piece.text or (piece.kind is Kind.REASONING and request.hide_reasoning):
        return {}
    if piece.kind is Kind.ARGUMENTS:
        return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}
    return {"reasoning" if piece.kind is Kind.REASONING else "content": piece.text}


def _head(request: GenerationRequest, kind: str) -> Json:
    prefix = "chatcmpl" if request.chat else "cmpl"
    return {
        "id": f"{prefix}-{request.request_id or hex_id()}",
        "object": kind,
        "created": now(),
        "model": request.model,
    }


def _finish(request: GenerationRequest, generation: Generation) -> str:
    """A call that the request named ends with "stop", one that the model chose with "tool_calls"."""
    named = request.tool is not None and request.tool.named
    return "stop" if named and generation.finish == "tool_calls" else generation.finish


def _token_ids(request: GenerationRequest, pieces: tuple[Piece, ...]) -> list[int] | None:
    return [piece.token for piece in pieces] if request.return_token_ids else None


def _usage(prompt: int, done: int, details: Json | None) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + done,
        "completion_tokens": done,
        "prompt_tokens_details": None,
        "completion_tokens_details": details,
    }


def _running_usage(request: GenerationRequest, done: int) -> Json:
    return {
        "prompt_tokens": request.prompt_tokens,
        "total_tokens": request.prompt_tokens + done,
        "completion_tokens": done,
        "completion_tokens_details": None,
    }
