"""Every type of item, block, part and tool that the official SDKs can send has a treatment: translated, ignored and
named, or refused. A new type in an SDK fails here until it is classified.
"""

import re
from collections.abc import Iterator
from typing import Any, get_args

from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from berth.apis.responses import items, tools
from berth.apis.responses.client_tools import TOOLS

# Types that Codex sends, and OpenAI's SDK does not have.
CODEX = {"agent_message", "compaction_summary", "context_compaction", "ghost_snapshot"}


def types_in(union: Any) -> Iterator[str]:
    """The values of `type` in the members of a union of typed dictionaries, whose annotations may be text."""
    for member in get_args(union):
        annotation = member.__annotations__["type"]
        yield from re.findall(r"['\"](\w+)['\"]", getattr(annotation, "__forward_arg__", str(annotation)))


def test_every_item_of_openais_sdk_has_a_treatment() -> None:
    ours = {*items.READERS, *items.IGNORED, *items.REFUSED, "item_reference"}

    assert set(types_in(ResponseInputItemParam)) == ours - CODEX
    assert ours > CODEX


def test_every_tool_of_openais_sdk_has_a_treatment() -> None:
    assert set(types_in(ToolParam)) == {"function", "custom", "namespace", *TOOLS, *tools.HOSTED, *tools.REFUSED}
