"""How TensorRT-LLM 1.2 writes answers and streams: a new id for every chunk, no nulls in the chunks of a chat."""

from collections.abc import Iterator

import orjson

from berth.sim.body_validation import Json, RefusalError
from berth.sim.common_responses import (
    chat_log_probabilities,
    completion_log_probabilities,
    ending,
    hex_id,
    interleaved,
    last_step,
    now,
    tool_pieces,
)
from berth.sim.dialect import EmbedAsk, Setup, Step
from berth.sim.generation import Ask, Kind, Piece, Script
from berth.sse import frame

_PACE = {"avg_decoded_tokens_per_iter": 1.0}


class TrtllmWriter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def answer(self, ask: Ask, scripts: tuple[Script, ...]) -> bytes:
        choice = self._chat_choice if ask.chat else self._completion_choice
        return orjson.dumps(
            {
                **_head(ask, "chat.completion" if ask.chat else "text_completion"),
                "choices": [choice(ask, index, script) for index, script in enumerate(scripts)],
                "usage": _usage(ask, sum(script.tokens for script in scripts)),
                "prompt_token_ids": None,
            }
        )

    def embeddings(self, ask: EmbedAsk) -> bytes:
        raise RefusalError(f"{ask.model} makes no embeddings", status=404)  # this engine has no route for them

    def frames(self, ask: Ask, scripts: tuple[Script, ...]) -> Iterator[Step]:
        deltas = self._chat_deltas if ask.chat else self._completion_deltas
        if ask.chat:
            for index in range(len(scripts)):
                yield 1, b"data: " + self._chat_chunk(ask, index, {"role": "assistant"}, tokens=0) + b" \n\n"
        yield from interleaved(deltas(ask, index, script) for index, script in enumerate(scripts))
        done = sum(script.tokens for script in scripts)
        usage = {**_head(ask, "chat.completion.chunk"), "choices": [], "usage": _usage(ask, done)}
        yield from ending(last_step(scripts), *([frame(orjson.dumps(usage))] if ask.usage else []))

    def _chat_choice(self, ask: Ask, index: int, script: Script) -> Json:
        call = tool_pieces(script)
        calls = []
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            calls = [{"id": f"chatcmpl-tool-{hex_id(32)}", "type": "function", "function": function}]
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(ask.echo) + script.text(Kind.CONTENT),
                "reasoning_content": script.text(Kind.REASONING),
                "reasoning": None,
                "tool_calls": calls,
            },
            "logprobs": chat_log_probabilities(self._setup, ask.tops, script.pieces, bytes_first=False),
            "finish_reason": _finish(ask, script),
            "stop_reason": script.stop,
            "mm_embedding_handle": None,
            "disaggregated_params": None,
            **_PACE,
        }

    def _completion_choice(self, ask: Ask, index: int, script: Script) -> Json:
        echo = ask.echo[index // ask.n] if ask.echo else ""
        return {
            "index": index,
            "text": echo + script.text(Kind.CONTENT),
            "token_ids": None,
            "logprobs": self._lists(ask, script.pieces, ask.prompts[index // ask.n] if echo else ()),
            "context_logits": None,
            "finish_reason": script.finish,
            "stop_reason": script.stop,
            "disaggregated_params": None,
            **_PACE,
        }

    def _lists(self, ask: Ask, pieces: tuple[Piece, ...], prompt: tuple[int, ...]) -> Json | None:
        if ask.tops is None:
            return None
        return completion_log_probabilities(self._setup, pieces, ask.tops, prompt=prompt)

    def _chat_deltas(self, ask: Ask, index: int, script: Script) -> Iterator[Step]:
        """The finish reason comes with the last token, or after it where the answer ended by itself."""
        pieces = script.pieces
        inside = bool(pieces) and (script.finish == "length" or script.stop is not None)
        for step, piece in enumerate(pieces, 1):
            finished = script if inside and step == len(pieces) else None
            delta = _delta(ask, piece)
            yield step, frame(self._chat_chunk(ask, index, delta, tokens=step, pieces=(piece,), finished=finished))
        if not inside:
            tokens = len(pieces)
            yield tokens + 1, frame(self._chat_chunk(ask, index, _words(), tokens=tokens, finished=script))

    def _chat_chunk(
        self,
        ask: Ask,
        index: int,
        delta: Json,
        *,
        tokens: int,
        pieces: tuple[Piece, ...] = (),
        finished: Script | None = None,
    ) -> bytes:
        choice: Json = {"index": index, "delta": delta}
        logprobs = chat_log_probabilities(self._setup, ask.tops, pieces, bytes_first=False)
        if logprobs is not None:
            choice["logprobs"] = logprobs
        if finished is not None:
            choice["finish_reason"] = _finish(ask, finished)
            if finished.stop is not None:
                choice["stop_reason"] = finished.stop
        if "role" not in delta:
            choice |= _PACE
        chunk: Json = {**_head(ask, "chat.completion.chunk"), "choices": [choice]}
        if ask.continuous:
            chunk["usage"] = _usage(ask, tokens)
        return orjson.dumps(chunk)

    def _completion_deltas(self, ask: Ask, index: int, script: Script) -> Iterator[Step]:
        pieces = script.pieces
        inside = bool(pieces) and (script.finish == "length" or script.stop is not None)
        echo = ask.echo[index // ask.n] if ask.echo else ""
        for step, piece in enumerate(pieces, 1):
            finished = script if inside and step == len(pieces) else None
            text = echo + piece.text if step == 1 else piece.text
            yield step, frame(self._completion_chunk(ask, index, text, tokens=step, pieces=(piece,), finished=finished))
        if not inside:
            text = "" if pieces else echo
            tokens = len(pieces)
            yield tokens + 1, frame(self._completion_chunk(ask, index, text, tokens=tokens, finished=script))

    def _completion_chunk(
        self,
        ask: Ask,
        index: int,
        text: str,
        *,
        tokens: int,
        pieces: tuple[Piece, ...] = (),
        finished: Script | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "text": text,
            "token_ids": None,
            "logprobs": self._lists(ask, pieces, ()) if pieces else None,
            "finish_reason": None if finished is None else finished.finish,
            "stop_reason": None if finished is None else finished.stop,
            **_PACE,
        }
        usage = _usage(ask, tokens) if ask.continuous else None
        return orjson.dumps({**_head(ask, "text_completion"), "choices": [choice], "usage": usage})


def _head(ask: Ask, kind: str) -> Json:
    """Called for every chunk: each has an id of its own."""
    prefix = "chatcmpl" if kind.startswith("chat.") else "cmpl"
    return {"id": f"{prefix}-{hex_id(32)}", "object": kind, "created": now(), "model": ask.model}


def _finish(ask: Ask, script: Script) -> str:
    named = ask.tool is not None and ask.tool.named
    return "stop" if named and script.finish == "tool_calls" else script.finish


def _words(content: str = "", reasoning: str = "") -> Json:
    """Both texts are always there."""
    return {"content": content, "reasoning_content": reasoning}


def _delta(ask: Ask, piece: Piece) -> Json:
    if piece.kind is Kind.REASONING:
        return _words(reasoning=piece.text)
    if piece.kind is Kind.CONTENT:
        return _words(piece.text)
    if ask.tool is not None and ask.tool.named:
        return {"tool_calls": [_named_call(ask.tool.name, piece)]}
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


def _usage(ask: Ask, done: int) -> Json:
    return {
        "prompt_tokens": ask.prompt_tokens,
        "total_tokens": ask.prompt_tokens + done,
        "completion_tokens": done,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
