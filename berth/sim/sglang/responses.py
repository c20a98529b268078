"""How SGLang 0.5 formats responses and streams: bare ids, matched_stop, reasoning_content, metadata."""

from collections.abc import Iterator, Sequence

import orjson

from berth.sim.body_validation import Json
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
from berth.sim.pooling import as_base64, unit_vector
from berth.sim.tokenizer import END
from berth.sse import frame

FinishReason = tuple[str | None, str | int | None]  # finish_reason and matched_stop


class SglangFormatter(BaseFormatter):
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
                "usage": _token_counts(tokens, 0, 0),
            }
        )

    def full_body(self, request: GenerationRequest, choices: list[Json], generations: tuple[Generation, ...]) -> Json:
        longest = max(one.tokens for one in generations)
        return {
            **_head(request, "chat.completion" if request.chat else "text_completion"),
            "choices": choices,
            "usage": self._usage(request, generations),
            "metadata": {
                "weight_version": "default",
                "weight_versions": [{"version": "default", "start": 0, "end": longest}],
            },
        }

    def chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        call = tool_call(generation)
        message: Json = {
            "role": "assistant",
            "content": generation.text(Kind.CONTENT),
            "reasoning_content": generation.text(Kind.REASONING) or None,
        }
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            message["tool_calls"] = [{"id": _call_id(), "index": 0, "type": "function", "function": function}]
        reason, stop = _finish_reason(generation)
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, generation.pieces, bytes_first=True),
            "finish_reason": reason,
            "matched_stop": None if reason == "tool_calls" else stop,
        }

    def completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        echo = request.echo[index // request.n] if request.echo else ""
        prompt = request.prompts[index // request.n] if echo else ()
        reason, stop = _finish_reason(generation)
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "logprobs": self._completion_logprobs(request, generation.pieces, prompt),
            "finish_reason": reason,
            "matched_stop": stop,
        }

    def _completion_logprobs(
        self, request: GenerationRequest, pieces: tuple[Piece, ...], prompt: tuple[int, ...]
    ) -> Json | None:
        if request.top_logprobs is None:
            return None
        lists = completion_logprobs(self._setup, pieces, request.top_logprobs, prompt=prompt)
        return {**lists, "text_offset": [-1] * len(lists["tokens"])}

    def heads(self, request: GenerationRequest, choices: int) -> Sequence[Json]:
        """Each choice has its own id. The frames after the tokens carry the last one."""
        return [_head(request, "chat.completion.chunk" if request.chat else "text_completion") for _ in range(choices)]

    def chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        yield 1, _chat_frame(head, index, {"reasoning_content": None, "role": "assistant", "content": ""})
        for step, piece in enumerate(generation.pieces, 1):
            if piece.kind in (Kind.TOOL_NAME, Kind.ARGUMENTS):
                yield step, _tool_frame(head, index, piece)
            elif piece.text:
                delta: Json = {"reasoning_content": None, "content": piece.text}
                if piece.kind is Kind.REASONING:
                    delta = {"reasoning_content": piece.text}
                logprobs = chat_logprobs(self._setup, request.top_logprobs, (piece,), bytes_first=True)
                usage = None
                if request.usage_per_chunk:
                    reasoning = min(step, generation.count(Kind.REASONING))
                    usage = _token_counts(request.prompt_tokens, step, reasoning)
                yield step, _chat_frame(head, index, delta, logprobs=logprobs, usage=usage)

    def completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        pieces = generation.pieces
        echo = request.echo[index // request.n] if request.echo else ""
        for step, piece in enumerate(pieces, 1):
            finish = _finish_reason(generation) if step == len(pieces) else (None, None)
            text = echo + piece.text if step == 1 else piece.text
            yield step, _completion_frame(head, index, text, self._completion_logprobs(request, (piece,), ()), finish)
        if not pieces:
            yield 1, _completion_frame(head, index, echo, None, _finish_reason(generation))

    def _usage(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Json:
        """As with --enable-cache-report where there is a prefix cache."""
        reasoning = sum(one.count(Kind.REASONING) for one in generations)
        counts = _token_counts(request.prompt_tokens, sum(one.tokens for one in generations), reasoning)
        details = {"cached_tokens": request.cached_tokens} if self._options.prefix_cache else None
        return {**counts, "prompt_tokens_details": details}

    def closing_frames(
        self, request: GenerationRequest, head: Json, generations: tuple[Generation, ...]
    ) -> Iterator[bytes]:
        for index, generation in enumerate(generations if request.chat else ()):
            yield _chat_frame(head, index, {"reasoning_content": None}, finish=_finish_reason(generation))
        if request.usage:
            usage = self._usage(request, generations)
            if not request.chat and not self._options.prefix_cache:
                usage = {key: value for key, value in usage.items() if not key.endswith("_details")}
            yield frame(orjson.dumps({**head, "choices": [], "usage": usage}))


def _head(request: GenerationRequest, kind: str) -> Json:
    return {"id": request.request_id or hex_id(32), "object": kind, "created": now(), "model": request.model}


def _finish_reason(generation: Generation) -> FinishReason:
    """The reason and the match: a stop string, or the id of the end token."""
    ended = generation.finish in ("stop", "tool_calls") and generation.stop is None
    return generation.finish, END if ended else generation.stop


def _chat_frame(
    head: Json,
    index: int,
    delta: Json,
    *,
    logprobs: Json | None = None,
    finish: FinishReason = (None, None),
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


def _completion_frame(head: Json, index: int, text: str, logprobs: Json | None, finish: FinishReason) -> bytes:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish[0], "matched_stop": finish[1]}
    return frame(orjson.dumps({**head, "choices": [choice], "usage": None}))


def _call_id() -> str:
    return f"call_{hex_id(24)}"


def _token_counts(prompt: int, done: int, reasoning: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + done,
        "completion_tokens": done,
        "prompt_tokens_details": None,
        "reasoning_tokens": reasoning,
        "completion_tokens_details": {"reasoning_tokens": reasoning} if reasoning else None,
    }
