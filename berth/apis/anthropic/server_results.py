"""What the tools of Anthropic's servers returned in earlier turns, as text for a model."""

from berth import json_text
from berth.canonical import Json


def result_text(result: Json) -> str:
    """Its text, or what can be read of it as JSON: Anthropic encrypts parts."""
    content = result.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in (content if isinstance(content, list) else [content]) if isinstance(part, dict)]
    if parts and all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        return "\n".join(part["text"] for part in parts)
    readable = [
        {name: value for name, value in part.items() if not name.startswith("encrypted") and value is not None}
        for part in parts
    ]
    return json_text.dumps(readable[0] if isinstance(content, dict) else readable).decode()
