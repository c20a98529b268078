"""Structured output: the text that a schema, a choice, a pattern or a grammar makes the engine say."""

import json
import re
from typing import Any

from berth.sim import bodies
from berth.sim.bodies import Json
from berth.sim.samples import first_match, sample


class PatternError(ValueError):
    """A regular expression that is none."""


def response_schema(body: Json) -> Any:
    """The JSON schema that `response_format` asks for; {} for any object, None where it asks for text."""
    wanted = body.get("response_format")
    kind = bodies.inside(wanted, "type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json":
        return bodies.inside(wanted, "schema")
    return bodies.inside(bodies.inside(wanted, "json_schema"), "schema") if kind == "json_schema" else None


def structured(*, schema: Any = None, choice: Any = None, regex: Any = None, grammar: Any = None) -> str | None:
    """None where nothing is asked for, or where the simulation knows no text that fits.

    SchemaError and PatternError for what no engine can follow.
    """
    if schema is not None:
        return json.dumps(sample(schema), ensure_ascii=False)
    if isinstance(choice, list) and choice:
        return str(choice[0])
    if isinstance(regex, str):
        try:
            return first_match(regex) or None
        except re.error as error:
            raise PatternError(str(error)) from error
    literal = re.search(r'"([^"]+)"', grammar) if isinstance(grammar, str) else None
    return literal[1] if literal else None
