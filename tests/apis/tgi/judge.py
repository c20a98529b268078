"""Checks with Hugging Face's official client, and canonical completions as input."""

from collections.abc import Sequence
from typing import Any

import httpx
import orjson
from huggingface_hub.inference._common import _stream_text_generation_response
from huggingface_hub.inference._generated.types.text_generation import TextGenerationOutput, TextGenerationStreamOutput

from berth.apis.tgi.request import completion
from berth.apis.tgi.stream import TgiStream
from berth.canonical import InferenceRequest, Json
from berth.sse import DONE
from berth.sse import frame as sse_frame

USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def request(*, stream: bool = True, inputs: str = "Once", **parameters: Any) -> InferenceRequest:
    return completion({"model": "m", "inputs": inputs, "parameters": parameters}, {}, stream=stream)


def encoder(**parameters: Any) -> TgiStream:
    return TgiStream(request(**parameters))


def frame(text: str, finish_reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason, **more}
    return sse_frame(orjson.dumps({"id": "x", "object": "text_completion", "created": 1, "choices": [choice]}))


def usage_frame(usage: Json = USAGE) -> bytes:
    return sse_frame(orjson.dumps({"id": "x", "choices": [], "usage": usage}))


def ending(finish_reason: str = "stop", **more: Any) -> bytes:
    return frame("", finish_reason, **more) + usage_frame() + DONE


def heard(written: bytes) -> list[TextGenerationStreamOutput]:
    """What the official client makes of these bytes, cut into lines as it cuts them. Its error for one in them."""
    lines = httpx.Response(200, content=written).iter_lines()
    parts: Any = list(_stream_text_generation_response(lines, details=True))
    for part in parts:
        check(part)
    return list(parts)


def events(written: bytes) -> list[Json]:
    """The same as JSON."""
    return [
        orjson.loads(block.removeprefix(b"data:")) for block in written.split(b"\n\n") if block.startswith(b"data:")
    ]


def told(parts: Sequence[TextGenerationStreamOutput]) -> Json:
    """The whole answer, as the last event and those before it tell it."""
    last = parts[-1]
    assert last.generated_text is not None
    assert all(part.generated_text is None and part.details is None for part in parts[:-1])
    return {"text": "".join(part.token.text for part in parts), "generated_text": last.generated_text}


def check(part: TextGenerationStreamOutput | TextGenerationOutput) -> None:
    """The client's classes take anything: here the types are looked at."""
    tokens: list[Any] = list(part.details.tokens) if isinstance(part, TextGenerationOutput) and part.details else []
    tokens = [part.token] if isinstance(part, TextGenerationStreamOutput) else tokens
    for token in tokens:
        assert [type(value) for value in (token.id, token.text, token.logprob, token.special)] == [
            int,
            str,
            float,
            bool,
        ]
    details = part.details
    if details is not None:
        assert details.finish_reason in {"length", "eos_token", "stop_sequence"}
        assert type(details.generated_tokens) is int
        assert details.seed is None or type(details.seed) is int
