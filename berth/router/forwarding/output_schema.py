"""What the text of an answer has to be where the client asked for JSON; pure.

Engines constrain what they generate, but not each of them always: one passes over a spelling that it does not know,
another was started without a backend for it. So the answer is looked at before, or at the latest when, it is complete.
"""

from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from berth.canonical import Failure, InferenceRequest, Json, Operation, Transcript
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.structured_output import split_constraint
from berth.router.exchange.outcomes import unfit
from berth.sse import DONE, data_of

_KEPT: Final = 256  # schemas
_LARGEST_KEPT: Final = 1 << 14  # bytes: clients may send many, and large ones
_LONGEST: Final = 200  # of a message, in characters
# The answer says by these that it is not whole, or that it is none.
_EXCUSED: Final = frozenset({"length", "content_filter", "tool_calls", "function_call"})


class OutputSchema:
    """JSON of any kind, or of one schema."""

    __slots__ = ("_validator",)

    def __init__(self, validator: Any = None) -> None:
        self._validator = validator

    def problem(self, text: str | None, finish_reason: str | None) -> str | None:
        """What is wrong with a complete text; None where nothing is, or where finish_reason tells enough."""
        if finish_reason in _EXCUSED:
            return None
        try:
            document = orjson.loads(text or "")
        except orjson.JSONDecodeError as exc:
            return f"output is not JSON: {exc}"
        if self._validator is None:
            return None if isinstance(document, dict) else "output is JSON, but not an object"
        for error in self._validator.iter_errors(document):
            path = ".".join(("$", *map(str, error.instance_path)))
            return f"output does not match the JSON schema at {path}: {error.message[:_LONGEST]}"
        return None

    def problem_in(self, answer: Json) -> str | None:
        """The same for all choices of a whole canonical answer."""
        for choice in answer.get("choices") or ():
            text = (choice.get("message") or {}).get("content") or choice.get("text")
            if problem := self.problem(text, choice.get("finish_reason")):
                return problem
        return None


class ValidatingDecoder(StreamDecoder):
    """The decoder of a stream with several choices, each of which is judged when it ends: the frame with the
    finish_reason of one that is not what was asked for is a Failure, and the client does not get it.
    """

    __slots__ = ("_decoder", "_pieces", "_wanted")

    def __init__(self, decoder: StreamDecoder, wanted: OutputSchema) -> None:
        super().__init__()
        self._decoder = decoder
        self._wanted = wanted
        self._pieces: dict[int, list[str]] = {}  # of the text of each choice that goes on

    def keep(self) -> None:
        self._decoder.keep()

    def transcript(self) -> Transcript:
        return self._decoder.transcript()

    def frame(self, frame: bytes) -> bytes | Failure:
        shown = self._decoder.frame(frame)
        self.usage = self._decoder.usage
        if isinstance(shown, Failure) or shown == DONE:
            return shown
        for choice in orjson.loads(data_of(shown) or b"{}").get("choices") or ():
            if problem := self._heard(choice):
                return unfit(problem)
        return shown

    def end(self) -> Failure | None:
        return self._decoder.end()

    def _heard(self, choice: Json) -> str | None:
        """What is wrong with the choice, when this is its end."""
        index, reason = choice.get("index", 0), choice.get("finish_reason")
        pieces = self._pieces.setdefault(index, [])
        pieces.append((choice.get("delta") or {}).get("content") or choice.get("text") or "")
        if reason is None:
            return None
        del self._pieces[index]
        return self._wanted.problem("".join(pieces), reason)


def expectation(request: InferenceRequest) -> OutputSchema | None:
    """None where any text will do, and where the schema is none that can be checked here: the engine judges it."""
    if request.operation not in {Operation.CHAT, Operation.COMPLETION}:
        return None
    kind, schema = _wanted(request.body)
    if kind == "json_object":
        return OutputSchema()
    return _of(schema) if kind in {"json", "json_schema"} else None


def _wanted(body: Json) -> tuple[str, Any]:
    """What kind of text, and the schema."""
    wanted = body.get("response_format") or {}
    if wanted.get("type", "text") != "text":
        return wanted["type"], (wanted.get("json_schema") or {}).get("schema")
    try:
        _, constraint = split_constraint(body)
    except UnsupportedError:  # the dialect says so, with the field
        return "", None
    return (constraint.kind, constraint.value) if constraint is not None else ("", None)


def _of(schema: Any) -> OutputSchema | None:
    if not isinstance(schema, dict | bool):
        return None
    text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    return _kept(text) if len(text) <= _LARGEST_KEPT else _compiled(text)


@lru_cache(maxsize=_KEPT)
def _kept(schema: bytes) -> OutputSchema | None:
    return _compiled(schema)


def _compiled(schema: bytes) -> OutputSchema | None:
    try:
        return OutputSchema(jsonschema_rs.validator_for(orjson.loads(schema), offline=True))
    except ValueError:  # no schema, or one that refers to what lies elsewhere
        return None
