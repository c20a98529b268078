"""Anthropic's tools with a type of their own. There are three groups, by the name before the date of their version:

1. The client runs them, and every model can call them as functions: a shell, an editor, a memory.
2. Anthropic's servers run them (web search and the like): ignored, and named in x-berth-ignored.
3. The client runs them, but only models that were trained for it can: refused, as are types that are unknown.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from berth.canonical import Json
from berth.errors import InvalidRequestError

HOSTED: Final = frozenset(
    {
        *("web_search", "web_fetch", "code_execution", "advisor", "mcp_toolset"),
        *("tool_search_tool_bm25", "tool_search_tool_regex"),
    }
)
REFUSED: Final = frozenset({"computer", "computer_toolset", "browser_toolset"})
_VERSION: Final = re.compile(r"_20\d{6}\Z")
_UNDOING: Final = frozenset({"text_editor_20241022", "text_editor_20250124"})
_TEXT: Final = {"type": "string"}
_LINE: Final = {"type": "integer"}
_RANGE: Final = {"type": "array", "items": _LINE, "description": "First and last line to view."}
_BASH: Final = {"command": _TEXT, "restart": {"type": "boolean"}}
_EDIT: Final[Mapping[str, Any]] = {
    "path": _TEXT,
    "view_range": _RANGE,
    "file_text": {"type": "string", "description": "For create: the whole text."},
    "old_str": {"type": "string", "description": "For str_replace: the text to replace. It must occur once."},
    "new_str": {"type": "string", "description": "For str_replace: the text instead."},
    "insert_line": {"type": "integer", "description": "For insert: the line after which the text is inserted."},
}
_INSERTED: Final = {"type": "string", "description": "For insert: the text."}
_COMMANDS: Final = ("view", "create", "str_replace", "insert")


def family(kind: str) -> str:
    """The type without its version."""
    return _VERSION.sub("", kind)


def function_of(kind: str) -> Json | None:
    """Description and parameters of the function for a tool of the first group; None for other types."""
    match family(kind):
        case "bash":
            text = "Runs a command in a bash session on the user's computer. `restart` begins a new session."
            return {"description": text, "parameters": _object(_BASH)}
        case "text_editor":
            undo = kind in _UNDOING
            edit = {
                "command": _enum(*_COMMANDS, *(("undo_edit",) if undo else ())),
                **_EDIT,
                **({} if undo else {"insert_text": _INSERTED}),
            }
            text = "Views and edits files and folders on the user's computer. `insert` takes its text from "
            text += "`new_str`." if undo else "`insert_text`."
            return {"description": text, "parameters": _object(edit, "command", "path")}
        case "memory":
            edit = {"command": _enum(*_COMMANDS, "delete", "rename"), **_EDIT, "insert_text": _INSERTED}
            edit |= {"old_path": _TEXT, "new_path": _TEXT}
            text = "Keeps notes in files under /memories for later conversations. Look at /memories first. "
            text += "`rename` takes `old_path` and `new_path`, all other commands take `path`."
            return {"description": text, "parameters": _object(edit, "command")}
    return None


def require_hosted(kind: str, param: str) -> None:
    """InvalidRequestError for a type that cannot be ignored."""
    if family(kind) in HOSTED:
        return
    advice = "It needs a model that was trained for it" if family(kind) in REFUSED else "Berth does not know it"
    message = f"{param!r} is of type {kind!r}, which is not supported. {advice}: send a tool with an 'input_schema'."
    raise InvalidRequestError(message, param=f"{param}.type")


def _enum(*texts: str) -> Json:
    return {"type": "string", "enum": list(texts)}


def _object(properties: Mapping[str, Any], *required: str) -> Json:
    return {"type": "object", "properties": dict(properties), "required": list(required)}
