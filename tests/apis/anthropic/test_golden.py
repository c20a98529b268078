"""The bytes that Anthropic's clients get for recorded responses of real engines. REWRITE_GOLDEN=1 rewrites the files;
review them before you commit.
"""

import os
from pathlib import Path

import orjson
import pytest

from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.canonical import EngineResponse
from berth.dialects.base import Dialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from tests.apis.anthropic.judge import checked_message, message, parse
from tests.fakes.recordings import Recording, inference_request, recording

FOLDER = Path(__file__).parent / "golden"
DIALECTS: dict[str, Dialect] = {"vllm": VllmDialect(), "sglang": SglangDialect(), "trtllm": TrtllmDialect()}
NAMES = [
    *("vllm/base/chat_basic", "vllm/base/chat_stream_usage", "vllm/base/chat_stream_unicode"),
    *("vllm/base/chat_stop", "vllm/base/chat_stop_stream", "vllm/base/chat_max_tokens"),
    *("vllm/base/reason_basic", "vllm/base/reason_stream", "vllm/base/reason_cut"),
    *("vllm/base/tools_auto", "vllm/base/tools_auto_stream", "vllm/base/tools_named_stream"),
    *("vllm/base/tools_required_stream", "vllm/base/fmt_json_schema_stream"),
    *("sglang/base/chat_basic", "sglang/base/chat_stream_usage", "sglang/base/chat_stop_string"),
    *("sglang/base/chat_cached", "sglang/base/so_json_schema_stream"),
    *("sglang/reasoning/reas_default", "sglang/reasoning/reas_stream"),
    *("sglang/tools/tool_strict_named_plain", "sglang/tools/tool_strict_required_stream"),
    *("sglang/tools/tool_required_stream", "sglang/tools/tool_strict_named_stream"),
    *("trtllm/base/chat_basic", "trtllm/base/chat_stream", "trtllm/base/chat_reasoning"),
    *("trtllm/base/reasoning_stream", "trtllm/base/tools_auto", "trtllm/base/tools_stream"),
]


def translated(found: Recording) -> bytes:
    """The engine's bytes through its dialect and then to the client."""
    dialect = DIALECTS[found.name.partition("/")[0]]
    asked = {"stop_sequences": found.body.get("stop") or [], "max_tokens": found.body.get("max_tokens") or 2048}
    request = parse(stream=found.is_stream, **asked)
    if not found.is_stream:
        answer = dialect.answer(request, "m", found.status, found.answer)
        assert isinstance(answer, EngineResponse)
        return orjson.dumps(
            checked_message(AnthropicMessages().response(request, answer.body)), option=orjson.OPT_INDENT_2
        )
    decoder = dialect.stream(inference_request(request.body | {"stream_options": {"include_usage": True}}), "m")
    shown = AnthropicMessages().stream(request).feed(decoder.feed(found.answer))
    assert decoder.end() is None
    assert message(shown)
    return shown


@pytest.mark.parametrize("name", NAMES)
def test_recorded_engine_responses_match_golden_files(name: str) -> None:
    file = FOLDER / f"{name.replace('/', '_')}.txt"
    shown = translated(recording(name))
    if os.environ.get("REWRITE_GOLDEN"):
        file.write_bytes(shown)

    assert shown == file.read_bytes()


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {name.replace("/", "_") for name in NAMES}
