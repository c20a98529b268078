"""How vLLM formats responses and streams: every field in the order recorded of vLLM 0.32.0, null fields too."""

import hashlib
from collections.abc import Iterator, Sequence

import orjson

from berth.sim.body_validation import Json
from berth.sim.common_responses import (
    BaseFormatter,
    chat_logprobs,
    completion_logprobs,
    hex_id,
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


class VllmFormatter(BaseFormatter):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        digest = hashlib.sha256(repr(setup.options).encode()).hexdigest()
        self._fingerprint = f"vllm-{VERSION}-{digest[:8]}"

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

    def full_body(self, request: GenerationRequest, choices: list[Json], generations: tuple[Generation, ...]) -> Json:
        tokens = sum(one.tokens for one in generations)
        body: Json = {
            **_head(request, "chat.completion" if request.chat else "text_completion"),
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": {
                **_usage(request.prompt_tokens, tokens, self._usage_details(request, generations)),
                "prompt_tokens_details": self._prompt_details(request),
            },
        }
        if request.chat:
            body["prompt_logprobs"] = self._prompt_logprobs(request, request.prompts[0])
            body["prompt_token_ids"] = list(request.prompts[0]) if request.return_token_ids else None
            body["prompt_text"] = None
        return {**body, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}

    def chat_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        call = tool_call(generation)
        reasoning = generation.text(Kind.REASONING)
        content: str | None = "".join(request.echo) + generation.text(Kind.CONTENT)
        if (reasoning and not content) or (call is not None and request.tool is not None and not request.tool.forced):
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
        message["reasoning"] = None if request.hide_reasoning else reasoning or None
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(self._setup, request.top_logprobs, generation.pieces, bytes_first=False),
            "finish_reason": _finish_reason(request, generation),
            "stop_reason": generation.stop,
            "token_ids": _token_ids(request, generation.pieces),
            "routed_experts": None,
        }

    def completion_choice(self, request: GenerationRequest, index: int, generation: Generation) -> Json:
        prompt = request.prompts[index // request.n]
        echo = request.echo[index // request.n] if request.echo else ""
        logprobs = None
        if request.top_logprobs is not None:
            echoed = prompt if echo else ()
            logprobs = completion_logprobs(self._setup, generation.pieces, request.top_logprobs, prompt=echoed)
        return {
            "index": index,
            "text": echo + generation.text(Kind.CONTENT),
            "logprobs": logprobs,
            "finish_reason": generation.finish,
            "stop_reason": generation.stop,
            "token_ids": _token_ids(request, generation.pieces),
            "prompt_logprobs": self._prompt_logprobs(request, prompt),
            "prompt_token_ids": list(prompt) if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _prompt_logprobs(self, request: GenerationRequest, prompt: tuple[int, ...]) -> list[Json | None] | None:
        """The first token has none."""
        if request.prompt_logprobs is None:
            return None
        entries: list[Json | None] = [None]
        for position, token in enumerate(prompt[1:], 1):
            likely = token_logprobs(self._setup, token, 1, position=position)
            text, value = likely[0]
            entries.append({str(token): {"logprob": value, "rank": len(likely), "decoded_token": text}})
        return entries

    def _usage_details(self, request: GenerationRequest, generations: tuple[Generation, ...]) -> Json | None:
        if self._options.reasoning is Reasoning.OFF or not request.chat:
            return None
        return {"reasoning_tokens": sum(one.count(Kind.REASONING) for one in generations)}

    def _prompt_details(self, request: GenerationRequest) -> Json | None:
        return {"cached_tokens": request.cached_tokens} if self._options.prefix_cache else None

    def heads(self, request: GenerationRequest, choices: int) -> Sequence[Json]:
        return [_head(request, "chat.completion.chunk" if request.chat else "text_completion")] * choices

    def opening_frames(self, request: GenerationRequest, heads: Sequence[Json]) -> Iterator[bytes]:
        for index, head in enumerate(heads if request.chat else ()):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            chunk = {**head, "choices": [choice]}
            if request.usage_per_chunk:
                chunk["usage"] = _running_usage(request, 0)
            ids = list(request.prompts[0]) if request.return_token_ids else None
            yield frame(orjson.dumps({**chunk, "prompt_token_ids": ids, "prompt_text": None}))

    def chat_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        for step, pieces, is_last in generation.chunks():
            delta = _delta(request, generation, step - 1) if pieces else {}
            if not delta and not is_last:
                continue
            choice: Json = {
                "index": index,
                "delta": delta,
                "logprobs": chat_logprobs(self._setup, request.top_logprobs, pieces, bytes_first=False),
                "finish_reason": _finish_reason(request, generation) if is_last else None,
            }
            if is_last:
                choice["stop_reason"] = generation.stop
            choice["token_ids"] = _token_ids(request, pieces) if pieces else None
            yield step, self._chunk(request, head, choice, min(step, len(generation.pieces)), is_last=is_last)

    def completion_deltas(
        self, request: GenerationRequest, head: Json, index: int, generation: Generation
    ) -> Iterator[TimedFrame]:
        for step, pieces, is_last in generation.chunks():
            is_first = step == 1
            echo = request.echo[index // request.n] if request.echo and is_first else ""
            logprobs = None
            if request.top_logprobs is not None and pieces:
                logprobs = completion_logprobs(self._setup, pieces, request.top_logprobs)
            ids = (
                request.prompts[index // request.n] if is_first and (request.echo or request.return_token_ids) else None
            )
            choice = {
                "index": index,
                "text": echo + "".join(piece.text for piece in pieces),
                "logprobs": logprobs,
                "finish_reason": generation.finish if is_last else None,
                "stop_reason": generation.stop if is_last else None,
                "prompt_token_ids": None if ids is None else list(ids),
                "token_ids": _token_ids(request, pieces),
            }
            yield step, self._chunk(request, head, choice, min(step, len(generation.pieces)), is_last=is_last)

    def _chunk(self, request: GenerationRequest, head: Json, choice: Json, tokens: int, *, is_last: bool) -> bytes:
        chunk = {**head, "choices": [choice]}
        if request.usage_per_chunk:
            chunk["usage"] = _running_usage(request, tokens)
        if is_last and not request.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return frame(orjson.dumps(chunk))

    def closing_frames(
        self, request: GenerationRequest, head: Json, generations: tuple[Generation, ...]
    ) -> Iterator[bytes]:
        if not request.usage:
            return
        tokens = sum(one.tokens for one in generations)
        usage: Json = {
            "prompt_tokens": request.prompt_tokens,
            "total_tokens": request.prompt_tokens + tokens,
            "completion_tokens": tokens,
        }
        for name, details in (
            ("prompt_tokens_details", self._prompt_details(request)),
            ("completion_tokens_details", self._usage_details(request, generations)),
        ):
            if details is not None:
                usage[name] = details
        yield frame(orjson.dumps({**head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint}))


def _delta(request: GenerationRequest, generation: Generation, at: int) -> Json:
    """The delta of one piece; {} if it was sent with the one before or has no text.

    A call that the model chose itself begins with name and first arguments in one array, both for the same index.
    """
    pieces = generation.pieces
    piece = pieces[at]
    is_model_choice = request.tool is not None and not request.tool.named
    if is_model_choice and at and pieces[at - 1].kind is Kind.TOOL_NAME:
        return {}
    if piece.kind is Kind.TOOL_NAME:
        call_id = f"chatcmpl-tool-{hex_id()}"
        calls: list[Json] = [{"id": call_id, "type": "function", "index": 0, "function": {"name": piece.text}}]
        if is_model_choice:
            calls += [{"index": 0, "function": {"arguments": one.text}} for one in pieces[at + 1 : at + 2]]
        return {"content": None, "tool_calls": calls}
    if not piece.text or (piece.kind is Kind.REASONING and request.hide_reasoning):
        return {}
    if piece.kind is Kind.ARGUMENTS:
        return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}
    return {"reasoning" if piece.kind is Kind.REASONING else "content": piece.text}


def _head(request: GenerationRequest, kind: str) -> Json:
    prefix = "chatcmpl" if request.chat else "cmpl"
    response_id = f"{prefix}-{request.request_id or hex_id()}"
    return {"id": response_id, "object": kind, "created": now(), "model": request.model}


def _finish_reason(request: GenerationRequest, generation: Generation) -> str:
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
