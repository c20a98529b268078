"""Validation of responses against the JSON schema of their request.

Engines constrain what they generate, but not always: one ignores a spelling that it does not know, another was started
without a backend for it. So a response is validated before its last byte is sent.

The check runs in the event loop, so it only runs where its cost is known to be small (schema_cost). Any other schema is
sent to the engine unchecked; the log has `schema check skipped` with the reason. The request is not rejected: the
engine may be able to follow the schema, and has limits of its own.
Patterns are matched in linear time, so one with lookaround or back-references leaves the whole schema unchecked.
"""

from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from berth import json_text
from berth.canonical import Failure, InferenceRequest, Json, Operation, Transcript
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.choices import expected_choices
from berth.dialects.failures import unfit_failure
from berth.dialects.requests.structured_output import CONSTRAINING, split_constraint
from berth.log import log
from berth.router.forwarding.schema_cost import MOST_BYTES, Outline
from berth.sse import DONE, data_of

_KEPT: Final = 256  # schemas of up to _SMALL bytes
_LARGE_KEPT: Final = 16  # others: clients may send many, and large ones
_SMALL: Final = 1 << 14
_LONGEST: Final = 200  # of a message, in characters
_LONGEST_CHECKED: Final = 1 << 20  # characters of a text: more take too long to parse in the event loop
_MOST_EXPLAINED: Final = 1_000_000  # steps x characters: the library copies the value for each alternative that failed
_OVERHEAD: Final = 1_000  # characters that take as long as the rest of one step that failed
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=250_000, dfa_size_limit=250_000)  # bytes of an automaton
# With these finish reasons a response is incomplete, or not text.
_BEGINNINGS: Final = '{["-0123456789tfn'  # of a JSON text
_EXCUSED: Final = frozenset({"length", "content_filter", "tool_calls", "function_call"})


class Schema:
    """A compiled one, and what it costs."""

    __slots__ = ("_outline", "_validator")

    def __init__(self, schema: Any) -> None:
        """TooCostlyError, or another ValueError for no schema, or one that refers to what lies elsewhere."""
        self._outline = Outline(schema)
        self._validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=_PATTERNS)

    def problem(self, document: Any, text: str, share: int) -> str | None:
        steps = self._outline.steps(document, text, share)
        if steps is None:
            log.info("schema check skipped", reason="too many steps for this text", characters=len(text))
            return None
        if self._validator.is_valid(document):
            return None
        if self._outline.unions and steps * (len(text) + _OVERHEAD) > _MOST_EXPLAINED // share:
            return "output does not match the JSON schema"
        try:
            self._validator.validate(document)
        except jsonschema_rs.ValidationError as error:
            path = ".".join(("$", *map(str, error.instance_path)))
            return f"output does not match the JSON schema at {path}: {error.message[:_LONGEST]}"
        return None  # pragma: no cover - is_valid and validate agree


class OutputSchema:
    """JSON of any kind, or of one schema."""

    __slots__ = ("_schema", "_share")

    def __init__(self, schema: Schema | None = None, share: int = 1) -> None:
        self._schema = schema
        self._share = share  # texts that may end in one go, and have one budget together

    def problem(self, text: str | None, finish_reason: str | None) -> str | None:
        """What is wrong with a complete text. None if nothing is, if finish_reason already explains it, and if the text
        is too large to be checked in the event loop.
        """
        text = text or ""
        if finish_reason in _EXCUSED:
            begun = text.lstrip()[:1]
            is_other = finish_reason == "length" and begun and begun not in _BEGINNINGS
            return "output is cut off, and does not begin like JSON" if is_other else None
        if len(text) > _LONGEST_CHECKED // self._share:
            log.info("schema check skipped", reason="long text", characters=len(text))
            return None
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            if json_text.embeddable(text, constants=False) is None:
                return f"output is not JSON: {exc}"
            if self._schema is not None:  # its library does not take such texts
                log.info("schema check skipped", reason="lone surrogate or number out of range", characters=len(text))
                return None
            document = json_text.loads(text)
        if self._schema is None:
            return None if isinstance(document, dict) else "output is JSON, but not an object"
        return self._schema.problem(document, text, self._share)

    def problem_in(self, response: Json) -> str | None:
        """The same for all choices of a whole canonical response."""
        for choice in response.get("choices") or ():
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
        self._pieces: dict[int, list[str]] = {}  # of the text of each choice that has not ended

    def keep(self) -> None:
        self._decoder.keep()

    def transcript(self) -> Transcript:
        return self._decoder.transcript()

    def frame(self, frame: bytes) -> bytes | Failure:
        shown = self._decoder.frame(frame)
        self.usage, self.mute = self._decoder.usage, self._decoder.mute
        if isinstance(shown, Failure) or shown == DONE:
            return shown
        for choice in json_text.loads(data_of(shown) or b"{}").get("choices") or ():
            index, reason = choice.get("index", 0), choice.get("finish_reason")
            pieces = self._pieces.setdefault(index, [])
            pieces.append((choice.get("delta") or {}).get("content") or choice.get("text") or "")
            if reason is not None:
                del self._pieces[index]
                if problem := self._wanted.problem("".join(pieces), reason):
                    return unfit_failure(problem)
        return shown

    def end(self) -> Failure | None:
        return self._decoder.end()


def expectation(request: InferenceRequest) -> OutputSchema | None:
    """None where any text will do, and where the schema is none that can be checked here: the engine judges it."""
    if CONSTRAINING.isdisjoint(request.body) or request.operation not in {Operation.CHAT, Operation.COMPLETION}:
        return None
    kind, schema = _wanted(request.body)
    if kind == "json_object":
        return OutputSchema()
    if kind not in {"json", "json_schema"} or not isinstance(schema, dict | bool):
        return None
    try:
        text = orjson.dumps(schema, default=json_text.spelled, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return None
    if len(text) > MOST_BYTES:
        log.info("schema check skipped", reason="large schema", bytes=len(text))
        return None
    compiled = _kept(text) if len(text) <= _SMALL else _kept_large(text)
    return OutputSchema(compiled, max(1, expected_choices(request))) if compiled is not None else None


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


def _compiled(schema: bytes) -> Schema | None:
    try:
        return Schema(json_text.loads(schema))
    except ValueError as exc:
        log.info("schema check skipped", reason=str(exc)[:_LONGEST])
        return None


_kept: Final = lru_cache(maxsize=_KEPT)(_compiled)
_kept_large: Final = lru_cache(maxsize=_LARGE_KEPT)(_compiled)
