"""Forced tool calls: their arguments follow the schema of the tool.

vLLM and SGLang enforce the schema of strict tools only; for others the arguments of a forced call are any JSON value.
So the tools that must be called are sent as strict, whatever the client says, unless an engine could not follow the
schema: it would reject the request, or take long. The check of the response (tool_calls) remains then: the arguments
are a JSON object.
"""

import re
from typing import Any, Final

from berth.canonical import Json

_TYPES: Final = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
_MOST_SUBSCHEMAS: Final = 2_000  # of all tools of a request
_LARGEST_SIZE: Final = 10_000  # of texts and lists
_LONGEST_PATTERN: Final = 200
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems")
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SIZES: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_WITHOUT_TYPE: Final = ("$ref", "anyOf", "oneOf", "const", "enum")  # of the whole schema: these say what it is
# Lookaround, flags, references to groups, and repetitions that an engine would write out.
_UNFIT_PATTERN: Final = re.compile(r"\(\?(?!:)|\\[1-9bBkK]|\{\d{3,}|,\d{3,}\}")


def strict_tools(tools: list[Json], choice: Any) -> list[Json]:
    """The tools with `strict` for those that must be called: the named one, or any."""
    named = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    sent, left = [], _MOST_SUBSCHEMAS
    for tool in tools:
        function = tool["function"]
        if named is not None and named != function["name"]:
            sent.append(tool)
            continue
        # A function without parameters has the arguments {}.
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        if isinstance(schema, dict) and "type" not in schema and not any(key in schema for key in _WITHOUT_TYPE):
            schema = {"type": "object", **schema}
        count = subschemas(schema, left)
        left -= count or 0
        strict = {"parameters": schema, "strict": True} if count is not None else {}
        sent.append({**tool, "function": {**function, **strict}})
    return sent


def subschemas(schema: Any, most: int) -> int | None:
    """How many it has; None where they are more, or where an engine could not follow one of them."""
    waiting, count = [schema], 0
    while waiting:
        part = waiting.pop()
        count += 1
        if count > most:
            return None
        if part is True:
            continue
        if not isinstance(part, dict) or not is_plain(part, schema):
            return None
        for name in _MAPS:
            waiting.extend(part.get(name, {}).values())
        for name in _LISTS:
            waiting.extend(part.get(name, ()))
        waiting.extend(part[name] for name in _SINGLE if name in part and part[name] is not False)
    return count


def is_plain(schema: Json, root: Json) -> bool:
    """Engines accept each of its keywords, apart from those of its subschemas."""
    kinds = schema.get("type", [])
    if not set(kinds if isinstance(kinds, list) else [kinds]) <= _TYPES or schema.get("enum") == []:
        return False
    if not all(isinstance(schema.get(name, {}), dict) for name in _MAPS):
        return False
    if not all(isinstance(schema.get(name, []), list) for name in (*_LISTS, "enum", "required")):
        return False
    sizes = [schema[name] for name in _SIZES if name in schema]
    if not all(isinstance(size, int) and size <= _LARGEST_SIZE for size in sizes):
        return False
    bounds = [schema[name] for name in _BOUNDS if name in schema]
    if not all(isinstance(bound, int) or (isinstance(bound, float) and kinds != "integer") for bound in bounds):
        return False
    patterns = [*schema.get("patternProperties", ()), *([schema["pattern"]] if "pattern" in schema else ())]
    return all(map(is_plain_pattern, patterns)) and ("$ref" not in schema or refers_to_part(schema["$ref"], root))


def is_plain_pattern(pattern: Any) -> bool:
    if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN or _UNFIT_PATTERN.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def refers_to_part(reference: Any, root: Any) -> bool:
    """Whether it is a JSON pointer to a part of the schema, without escapes: vLLM's grammars do not resolve those."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return False
    found = root
    for name in reference.split("/")[1:]:
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True
