"""How vLLM 0.32 writes answers and streams: every field in its recorded order, the null ones too."""

import hashlib
from collections.abc import Iterator

import orjson

from berth.sim.body_validation import Json
from berth.sim.common_responses import (
    chat_log_probabilities,
    completion_log_probabilities,
    ending,
    hex_id,
    interleaved,
    last_step,
    log_probabilities,
    now,
    tool_pieces,
)
from berth.sim.dialect import EmbedAsk, Setup, Step
from berth.sim.generation import Ask, Kind, Piece, Script
from berth.sim.options import Reasoning
from berth.sim.pooling import as_base64, unit_vector
from berth.sse import frame

VERSION = "0.32.0"


class VllmWriter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options
        digest = hashlib.sha256(repr(setup.options).encode()).hexdigest()
        self._fingerprint = f"vllm-{VERSION}-{digest[:8]}"

    def answer(self, ask: Ask, scripts: tuple[Script, ...]) -> bytes:
        choice = self._chat_choice if ask.chat else self._completion_choice
        answer: Json = {
            **_head(ask, "chat.completion" if ask.chat else "text_completion"),
            "choices": [choice(ask, index, script) for index, script in enumerate(scripts)],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": _usage(ask.prompt_tokens, sum(script.tokens for script in scripts), self._details(ask, scripts)),
        }
        if ask.chat:
            answer["prompt_logprobs"] = self._prompt_log_probabilities(ask, ask.prompts[0])
            answer["prompt_token_ids"] = list(ask.prompts[0]) if ask.with_ids else None
            answer["prompt_text"] = None
        return orjson.dumps({**answer, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None})

    def embeddings(self, ask: EmbedAsk) -> bytes:
        vectors = [unit_vector(one, self._options.dimensions) for one in ask.inputs]
        return orjson.dumps(
            {
                "id": f"embd-{hex_id()}",
                "object": "list",
                "created": now(),
                "model": ask.model,
                "data": [
                    {"index": index, "object": "embedding", "embedding": as_base64(one) if ask.base64 else one}
                    for index, one in enumerate(vectors)
                ],
                "usage": _usage(sum(len(one) for one in ask.inputs), 0, None),
            }
        )

    def frames(self, ask: Ask, scripts: tuple[Script, ...]) -> Iterator[Step]:
        head = _head(ask, "chat.completion.chunk" if ask.chat else "text_completion")
        if ask.chat:
            for index in range(len(scripts)):
                yield 1, self._opening(ask, head, index)
        deltas = self._chat_deltas if ask.chat else self._completion_deltas
        yield from interleaved(deltas(ask, head, index, script) for index, script in enumerate(scripts))
        usage = [self._usage_frame(ask, head, scripts)] if ask.usage else []
        yield from ending(last_step(scripts), *usage)

    def _chat_choice(self, ask: Ask, index: int, script: Script) -> Json:
        call = tool_pieces(script)
        thoughts = script.text(Kind.REASONING)
        content: str | None = "".join(ask.echo) + script.text(Kind.CONTENT)
        if (thoughts and not content) or (call is not None and ask.tool is not None and not ask.tool.forced):
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
        message["reasoning"] = None if ask.hide_thinking else thoughts or None
        return {
            "index": index,
            "message": message,
            "logprobs": chat_log_probabilities(self._setup, ask.tops, script.pieces, bytes_first=False),
            "finish_reason": _finish(ask, script),
            "stop_reason": script.stop,
            "token_ids": _token_ids(ask, script.pieces),
            "routed_experts": None,
        }

    def _completion_choice(self, ask: Ask, index: int, script: Script) -> Json:
        prompt = ask.prompts[index // ask.n]
        echo = ask.echo[index // ask.n] if ask.echo else ""
        shown = prompt if echo else ()
        return {
            "index": index,
            "text": echo + script.text(Kind.CONTENT),
            "logprobs": None
            if ask.tops is None
            else completion_log_probabilities(self._setup, script.pieces, ask.tops, prompt=shown),
            "finish_reason": script.finish,
            "stop_reason": script.stop,
            "token_ids": _token_ids(ask, script.pieces),
            "prompt_logprobs": self._prompt_log_probabilities(ask, prompt),
            "prompt_token_ids": list(prompt) if ask.with_ids else None,
            "routed_experts": None,
        }

    def _prompt_log_probabilities(self, ask: Ask, prompt: tuple[int, ...]) -> list[Json | None] | None:
        if ask.prompt_tops is None:
            return None
        shown: list[Json | None] = [None]
        for token in prompt[1:]:
            text, value = log_probabilities(self._setup, token, 1)[0]
            shown.append({str(token): {"logprob": value, "rank": 1, "decoded_token": text}})
        return shown

    def _details(self, ask: Ask, scripts: tuple[Script, ...]) -> Json | None:
        if self._options.reasoning is Reasoning.OFF or not ask.chat:
            return None
        return {"reasoning_tokens": sum(script.count(Kind.REASONING) for script in scripts)}

    def _opening(self, ask: Ask, head: Json, index: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        chunk = {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
        if ask.continuous:
            chunk["usage"] = _running_usage(ask, 0)
        ids = list(ask.prompts[0]) if ask.with_ids else None
        return frame(orjson.dumps({**chunk, "prompt_token_ids": ids, "prompt_text": None}))

    def _chat_deltas(self, ask: Ask, head: Json, index: int, script: Script) -> Iterator[Step]:
        """The finish reason comes with the last token; one that ends by itself has a frame of its own for it."""
        pieces = script.pieces
        inside = bool(pieces) and (script.finish == "length" or script.stop is not None)
        for step, (piece, delta) in enumerate(_deltas(ask, script), 1):
            finished = script if inside and step == len(pieces) else None
            if delta or finished is not None:
                part = self._chat_part(ask, index, delta, pieces=(piece,), finished=finished)
                yield step, self._chunk(ask, head, part, step, last=finished is not None)
        if not inside:
            part = self._chat_part(ask, index, {}, pieces=(), finished=script)
            yield len(pieces) + 1, self._chunk(ask, head, part, len(pieces), last=True)

    def _chat_part(
        self, ask: Ask, index: int, delta: Json, *, pieces: tuple[Piece, ...], finished: Script | None
    ) -> Json:
        part: Json = {
            "index": index,
            "delta": delta,
            "logprobs": chat_log_probabilities(self._setup, ask.tops, pieces, bytes_first=False),
            "finish_reason": None if finished is None else _finish(ask, finished),
        }
        if finished is not None:
            part["stop_reason"] = finished.stop
        part["token_ids"] = _token_ids(ask, pieces) if pieces else None
        return part

    def _completion_deltas(self, ask: Ask, head: Json, index: int, script: Script) -> Iterator[Step]:
        pieces = script.pieces
        inside = bool(pieces) and (script.finish == "length" or script.stop is not None)
        for step, piece in enumerate(pieces, 1):
            last = inside and step == len(pieces)
            part = self._completion_part(ask, index, (piece,), script if last else None, first=step == 1)
            yield step, self._chunk(ask, head, part, step, last=last)
        if not inside:
            part = self._completion_part(ask, index, (), script, first=not pieces)
            yield len(pieces) + 1, self._chunk(ask, head, part, len(pieces), last=True)

    def _completion_part(
        self, ask: Ask, index: int, pieces: tuple[Piece, ...], finished: Script | None, *, first: bool
    ) -> Json:
        echo = ask.echo[index // ask.n] if ask.echo and first else ""
        shown = ask.tops is not None and bool(pieces)
        ids = ask.prompts[index // ask.n] if first and (ask.echo or ask.with_ids) else None
        return {
            "index": index,
            "text": echo + "".join(piece.text for piece in pieces),
            "logprobs": completion_log_probabilities(self._setup, pieces, ask.tops or 0) if shown else None,
            "finish_reason": None if finished is None else finished.finish,
            "stop_reason": None if finished is None else finished.stop,
            "prompt_token_ids": None if ids is None else list(ids),
            "token_ids": _token_ids(ask, pieces),
        }

    def _chunk(self, ask: Ask, head: Json, part: Json, tokens: int, *, last: bool) -> bytes:
        chunk = {**head, "choices": [part]}
        if ask.continuous:
            chunk["usage"] = _running_usage(ask, tokens)
        if last and not ask.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return frame(orjson.dumps(chunk))

    def _usage_frame(self, ask: Ask, head: Json, scripts: tuple[Script, ...]) -> bytes:
        done = sum(script.tokens for script in scripts)
        usage: Json = {
            "prompt_tokens": ask.prompt_tokens,
            "total_tokens": ask.prompt_tokens + done,
            "completion_tokens": done,
        }
        details = self._details(ask, scripts)
        if details is not None:
            usage["completion_tokens_details"] = details
        return frame(orjson.dumps({**head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint}))


def _deltas(ask: Ask, script: Script) -> Iterator[tuple[Piece, Json]]:
    """The delta of each token; {} where it was sent with the one before or has no text.

    A call that the model chose itself begins with name and first arguments in one array, both for the same index.
    """
    pieces = script.pieces
    joined = ask.tool is not None and not ask.tool.named
    for at, piece in enumerate(pieces):
        if joined and at and pieces[at - 1].kind is Kind.TOOL_NAME:
            yield piece, {}
        else:
            yield piece, _delta(ask, piece, pieces[at + 1 : at + 2] if joined else ())


def _delta(ask: Ask, piece: Piece, following: tuple[Piece, ...]) -> Json:
    if piece.kind is Kind.TOOL_NAME:
        call_id = f"chatcmpl-tool-{hex_id()}"
        calls: list[Json] = [{"id": call_id, "type": "function", "index": 0, "function": {"name": piece.text}}]
        calls += [{"index": 0, "function": {"arguments": one.text}} for one in following]
        return {"content": None, "tool_calls": calls}
    if not piece.text or (piece.kind is Kind.REASONING and ask.hide_thinking):
        return {}
    if piece.kind is Kind.ARGUMENTS:
        return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}
    return {"reasoning" if piece.kind is Kind.REASONING else "content": piece.text}


def _head(ask: Ask, kind: str) -> Json:
    prefix = "chatcmpl" if ask.chat else "cmpl"
    return {"id": f"{prefix}-{ask.request_id or hex_id()}", "object": kind, "created": now(), "model": ask.model}


def _finish(ask: Ask, script: Script) -> str:
    """A call that the request named ends with "stop", one that the model chose with "tool_calls"."""
    named = ask.tool is not None and ask.tool.named
    return "stop" if named and script.finish == "tool_calls" else script.finish


def _token_ids(ask: Ask, pieces: tuple[Piece, ...]) -> list[int] | None:
    return [piece.token for piece in pieces] if ask.with_ids else None


def _usage(prompt: int, done: int, details: Json | None) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + done,
        "completion_tokens": done,
        "prompt_tokens_details": None,
        "completion_tokens_details": details,
    }


def _running_usage(ask: Ask, done: int) -> Json:
    return {
        "prompt_tokens": ask.prompt_tokens,
        "total_tokens": ask.prompt_tokens + done,
        "completion_tokens": done,
        "completion_tokens_details": None,
    }
