"""How SGLang 0.5 writes answers and streams: bare ids, matched_stop, reasoning_content, metadata."""

from collections.abc import Iterator
from typing import Any

import orjson

from berth.sim.body_validation import Json
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
from berth.sim.pooling import as_base64, unit_vector
from berth.sim.tokenizer import END
from berth.sse import frame


class SglangWriter:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def answer(self, ask: Ask, scripts: tuple[Script, ...]) -> bytes:
        choice = self._chat_choice if ask.chat else self._completion_choice
        longest = max(script.tokens for script in scripts)
        return orjson.dumps(
            {
                **_head(ask, "chat.completion" if ask.chat else "text_completion", ask.request_id or hex_id(32)),
                "choices": [choice(ask, index, script) for index, script in enumerate(scripts)],
                "usage": _usage(ask, scripts),
                "metadata": {
                    "weight_version": "default",
                    "weight_versions": [{"version": "default", "start": 0, "end": longest}],
                },
            }
        )

    def embeddings(self, ask: EmbedAsk) -> bytes:
        vectors = [unit_vector(one, self._options.dimensions) for one in ask.inputs]
        tokens = sum(len(one) for one in ask.inputs)
        return orjson.dumps(
            {
                "data": [
                    {"embedding": as_base64(one) if ask.base64 else one, "index": index, "object": "embedding"}
                    for index, one in enumerate(vectors)
                ],
                "model": ask.model,
                "object": "list",
                "usage": _counts(tokens, 0, 0),
            }
        )

    def frames(self, ask: Ask, scripts: tuple[Script, ...]) -> Iterator[Step]:
        """Each choice has an id of its own; whatever comes after the tokens carries the last one's."""
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        heads = [_head(ask, kind, ask.request_id or hex_id(32)) for _ in scripts]
        deltas = self._chat_deltas if ask.chat else self._completion_deltas
        yield from interleaved(deltas(ask, heads[index], index, script) for index, script in enumerate(scripts))
        last = last_step(scripts)
        if ask.chat:
            for index, script in enumerate(scripts):
                yield last, _chat_frame(heads[-1], index, {"reasoning_content": None}, finish=_finish(script))
        usage = _usage(ask, scripts)
        if not ask.chat:
            usage = {key: value for key, value in usage.items() if not key.endswith("_details")}
        chunk = {**heads[-1], "choices": [], "usage": usage}
        yield from ending(last, *([frame(orjson.dumps(chunk))] if ask.usage else []))

    def _chat_choice(self, ask: Ask, index: int, script: Script) -> Json:
        call = tool_pieces(script)
        message: Json = {
            "role": "assistant",
            "content": script.text(Kind.CONTENT),
            "reasoning_content": script.text(Kind.REASONING) or None,
        }
        if call is not None:
            function = {"name": call[0], "arguments": call[1]}
            message["tool_calls"] = [{"id": _call_id(), "index": 0, "type": "function", "function": function}]
        reason, stop = _finish(script)
        return {
            "index": index,
            "message": message,
            "logprobs": chat_log_probabilities(self._setup, ask.tops, script.pieces, bytes_first=True),
            "finish_reason": reason,
            "matched_stop": None if reason == "tool_calls" else stop,
        }

    def _completion_choice(self, ask: Ask, index: int, script: Script) -> Json:
        echo = ask.echo[index // ask.n] if ask.echo else ""
        reason, stop = _finish(script)
        return {
            "index": index,
            "text": echo + script.text(Kind.CONTENT),
            "logprobs": self._lists(ask, script.pieces, ask.prompts[index // ask.n] if echo else ()),
            "finish_reason": reason,
            "matched_stop": stop,
        }

    def _lists(self, ask: Ask, pieces: tuple[Piece, ...], prompt: tuple[int, ...]) -> Json | None:
        if ask.tops is None:
            return None
        lists = completion_log_probabilities(self._setup, pieces, ask.tops, prompt=prompt)
        return {**lists, "text_offset": [-1] * len(lists["tokens"])}

    def _chat_deltas(self, ask: Ask, head: Json, index: int, script: Script) -> Iterator[Step]:
        opening = {"reasoning_content": None, "role": "assistant", "content": ""}
        yield 1, _chat_frame(head, index, opening)
        for step, piece in enumerate(script.pieces, 1):
            if piece.kind in (Kind.TOOL_NAME, Kind.ARGUMENTS):
                yield step, _tool_frame(head, index, piece)
            elif piece.text:
                logprobs = chat_log_probabilities(self._setup, ask.tops, (piece,), bytes_first=True)
                usage = _counts(ask.prompt_tokens, step, _thoughts(script, step)) if ask.continuous else None
                yield step, _chat_frame(head, index, _delta(piece), logprobs=logprobs, usage=usage)

    def _completion_deltas(self, ask: Ask, head: Json, index: int, script: Script) -> Iterator[Step]:
        pieces = script.pieces
        echo = ask.echo[index // ask.n] if ask.echo else ""
        for step, piece in enumerate(pieces, 1):
            finish = _finish(script) if step == len(pieces) else (None, None)
            text = echo + piece.text if step == 1 else piece.text
            yield step, _completion_frame(head, index, text, self._lists(ask, (piece,), ()), finish)
        if not pieces:
            yield 1, _completion_frame(head, index, echo, None, _finish(script))


Finish = tuple[str | None, str | int | None]


def _head(ask: Ask, kind: str, answer_id: str) -> Json:
    return {"id": answer_id, "object": kind, "created": now(), "model": ask.model}


def _finish(script: Script) -> Finish:
    """The reason and what matched: a stop string, or the id of the end token."""
    ended = script.finish in ("stop", "tool_calls") and script.stop is None
    return script.finish, END if ended else script.stop


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


def _thoughts(script: Script, tokens: int) -> int:
    return min(tokens, script.count(Kind.REASONING))


def _usage(ask: Ask, scripts: tuple[Script, ...]) -> Json:
    thoughts = sum(script.count(Kind.REASONING) for script in scripts)
    return _counts(ask.prompt_tokens, sum(script.tokens for script in scripts), thoughts)


def _counts(prompt: int, done: int, thoughts: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + done,
        "completion_tokens": done,
        "prompt_tokens_details": None,
        "reasoning_tokens": thoughts,
        "completion_tokens_details": {"reasoning_tokens": thoughts} if thoughts else None,
    }
