"""Every type of item, block, part and tool that the official SDKs can send has a treatment: translated, ignored and
named, or refused. A new type in an SDK fails here until it is classified.
"""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from anthropic.types import ContentBlockParam, ToolUnionParam
from anthropic.types.beta import BetaContentBlockParam, BetaToolUnionParam
from openai.types.chat.chat_completion_content_part_param import ChatCompletionContentPartParam
from openai.types.chat.chat_completion_tool_union_param import ChatCompletionToolUnionParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from berth.apis.anthropic import content, typed_tools
from berth.apis.openai.chat import REFUSED_PARTS
from berth.apis.responses import items, tools
from berth.apis.responses.client_tools import TOOLS

# Types that Codex sends, and OpenAI's SDK does not have.
CODEX = {"agent_message", "compaction_summary", "context_compaction", "ghost_snapshot"}


def types_in(union: Any) -> Iterator[str]:
    """The values of `type` in the members of a union of typed dictionaries, whose annotations may be text."""
    for member in get_args(union):
        if hasattr(member, "__metadata__"):  # the blocks of responses, which may be sent back
            yield from types_in(member.__origin__)
            continue
        annotation = member.__annotations__["type"]
        yield from re.findall(r"['\"](\w+)['\"]", getattr(annotation, "__forward_arg__", str(annotation)))


def test_every_item_of_openais_sdk_has_a_treatment() -> None:
    ours = {*items.READERS, *items.IGNORED, *items.REFUSED, "item_reference"}

    assert set(types_in(ResponseInputItemParam)) == ours - CODEX
    assert ours > CODEX


def test_every_tool_of_openais_sdk_has_a_treatment() -> None:
    assert set(types_in(ToolParam)) == {"function", "custom", "namespace", *TOOLS, *tools.HOSTED, *tools.REFUSED}


def test_every_block_of_anthropics_sdk_has_a_treatment() -> None:
    ours = {*content.USER, *content.ASSISTANT, *content.IGNORED, *content.DIRECTIVES}
    refused = {"container_upload"}

    assert {*types_in(ContentBlockParam), *types_in(BetaContentBlockParam)} == ours | refused


@pytest.mark.parametrize("union", [ToolUnionParam, BetaToolUnionParam])
def test_every_tool_of_anthropics_sdk_has_a_treatment(union: Any) -> None:
    for kind in types_in(union):
        treatments = [
            kind == "custom",
            typed_tools.function_of(kind) is not None,
            typed_tools.family(kind) in typed_tools.HOSTED,
            typed_tools.family(kind) in typed_tools.REFUSED,
        ]

        assert treatments.count(True) == 1, kind


def test_every_part_and_tool_of_a_chat_has_a_treatment() -> None:
    read_by_engines = {"text", "image_url", "input_audio"}
    assert set(types_in(ChatCompletionContentPartParam)) == {*read_by_engines, *REFUSED_PARTS}
    assert set(types_in(ChatCompletionToolUnionParam)) == {"function", "custom"}
