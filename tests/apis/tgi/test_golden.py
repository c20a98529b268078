"""The bytes that TGI's clients get for recorded responses of real engines.

`GOLDEN=write pytest tests/apis/tgi/test_golden.py` rewrites the files; review them before you commit.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from berth.apis.tgi.endpoints import TgiGenerate
from berth.apis.tgi.stream import TgiStream
from berth.canonical import EngineResponse, Failure
from berth.dialects.registry import DIALECTS
from berth.errors import UpstreamError
from berth.plan import DialectName
from tests.apis.tgi.judge import request
from tests.fakes.recordings import Recording, recording

GOLDEN = Path(__file__).parent / "golden"
# Of each engine: text, probabilities, and streams with usage and without.
SHOWN = {
    DialectName.VLLM: ("base/comp_basic", "base/comp_logprobs", "base/comp_stream", "base/comp_stream_usage"),
    DialectName.SGLANG: ("base/comp_basic", "base/comp_logprobs", "base/comp_stream"),
    DialectName.TRTLLM: ("base/comp_basic", "base/comp_stream"),
}
_MOST_EVENTS = 6  # of a stream: its middle is more of the same


def client_bytes(recorded: Recording, dialect: DialectName) -> bytes:
    details: dict[str, Any] = {"details": True} if recorded.name.endswith("logprobs") else {}
    asked = replace(request(stream=recorded.is_stream, **details), body=recorded.body)
    if not recorded.is_stream:
        found = DIALECTS[dialect].answer(asked, "tiny", recorded.status, recorded.answer)
        assert isinstance(found, EngineResponse)
        return TgiGenerate(stream=False).response(asked, found.body) + b"\n"
    return shortened(stream_bytes(recorded.answer, asked, dialect))


def stream_bytes(answer: bytes, asked: Any, dialect: DialectName) -> bytes:
    """As the router does it, the engine's bytes in pieces of any size."""
    decoder, stream = DIALECTS[dialect].stream(asked, "tiny"), TgiStream(asked)
    written = b""
    for at in range(0, len(answer), 777):
        if decoder.failure is None:
            written += stream.feed(decoder.feed(answer[at : at + 777]))
    failure = decoder.failure or decoder.end()
    return written + (stream.fail(UpstreamError(failure.message)) if isinstance(failure, Failure) else b"")


def shortened(written: bytes) -> bytes:
    events = written.split(b"\n\n")[:-1]
    middle = [b"..."] if len(events) > _MOST_EVENTS else []
    kept = [*events[: _MOST_EVENTS - 1], *middle, events[-1]] if middle else events
    return re.sub(rb'("generated_text":"(?:[^"\\]|\\.){60})(?:[^"\\]|\\.)*"', rb'\1..."', b"\n".join(kept)) + b"\n"


@pytest.mark.parametrize("dialect", SHOWN)
def test_recorded_engine_responses_match_golden_file(dialect: DialectName) -> None:
    current = [
        f"# {name}\n".encode() + client_bytes(recording(f"{dialect}/{name}"), dialect) for name in SHOWN[dialect]
    ]
    file = GOLDEN / f"{dialect}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\n".join(current))

    assert b"\n".join(current) == file.read_bytes()
