"""The tool calls of a response: each once and under its own index and id, and a forced one with a JSON object.

Some engines put two calls of a stream under one index, or give none, and clients would join their arguments. A frame
begins a call if it has a name, unless the call under its index, or the last one, may still continue: it has this id, or
the same name and arguments that have begun and are not complete yet (some engines repeat the name, or send a new id in
each frame).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from berth import json_text
from berth.canonical import Json

_LONGEST_COMPLETE: Final = 1 << 16  # characters of arguments after which a repeated name is not taken for a new call

_LONGEST_CHECKED: Final = 1 << 20  # characters: more take too long to parse in the event loop


@dataclass(slots=True, kw_only=True)
class _Call:
    index: int  # the client's
    id: str
    name: str | None
    pieces: list[str] = field(default_factory=list)  # of the arguments

    def may_continue(self, call_id: Any, name: Any, arguments: str) -> bool:
        if not name or call_id == self.id:
            return True
        if name != self.name:
            return False
        if not call_id and not arguments.lstrip().startswith("{"):
            return True
        last = next((piece for piece in reversed(self.pieces) if piece.strip()), "")
        if last.rstrip().endswith("}") and sum(map(len, self.pieces)) <= _LONGEST_COMPLETE:
            return not is_object("".join(self.pieces))
        return bool(last or not call_id)


class ToolCalls:
    """Those of one choice of a stream so far."""

    __slots__ = ("_by_id", "_by_index", "_calls", "_only_first", "_own", "_prefix")

    def __init__(self, prefix: str, *, only_first: bool) -> None:
        self._prefix = prefix  # of the ids that the engine does not give
        self._only_first = only_first
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}  # the engine's index -> the last call that began under it
        self._by_id: dict[str, _Call] = {}
        self._own: set[int] = set()  # the clients' indexes

    def __bool__(self) -> bool:
        return bool(self._calls)

    def correct(self, delta: Json) -> bool:
        """Each call once in a frame, and its id, type and name in its first frame only: clients join the ids of all
        deltas, some read the first entry of a frame alone, and vLLM begins with two of one call. True: something was
        changed.
        """
        before = json_text.dumps(delta["tool_calls"])
        entries: dict[int, Json] = {}
        pieces: dict[int, list[str]] = {}  # the arguments of calls with several entries in this frame
        for place, given in enumerate(delta["tool_calls"]):
            function = {key: value for key, value in (given.get("function") or {}).items() if value is not None}
            call = self._continued(given, function, place, single=len(delta["tool_calls"]) == 1)
            if call is None:
                call = self._begin(given, function)
                entry = {**given, "id": call.id, "type": given.get("type") or "function", "index": call.index}
                entry["function"] = {"arguments": "", **function}
            else:
                function.pop("name", None)
                entry = {"index": call.index, "function": function}
            arguments = function.get("arguments") or ""
            call.pieces.append(arguments)
            first = entries.setdefault(call.index, entry)["function"]
            if first is not entry["function"]:
                pieces.setdefault(call.index, [first.get("arguments") or ""]).append(arguments)
        for index, texts in pieces.items():
            entries[index]["function"]["arguments"] = "".join(texts)
        first_index = self._calls[0].index
        delta["tool_calls"] = [one for index, one in entries.items() if not self._only_first or index == first_index]
        changed: bool = json_text.dumps(delta["tool_calls"]) != before
        if not delta["tool_calls"]:
            del delta["tool_calls"]
        return changed

    def problem(self) -> str | None:
        """What is wrong with the arguments of complete calls that were forced."""
        return problem_of((call.name, "".join(call.pieces)) for call in self._calls)

    def _continued(self, given: Json, function: Json, place: int, *, single: bool) -> _Call | None:
        """The call that the entry continues; None: it begins one."""
        index, call_id, name = given.get("index"), given.get("id"), function.get("name")
        if call_id and call_id in self._by_id:
            return self._by_id[call_id]
        if isinstance(index, int):
            call = self._by_index.get(index)
        elif not single and not name and place < len(self._calls):
            call = self._calls[place]
        else:
            call = self._calls[-1] if self._calls else None
        arguments = function.get("arguments") or ""
        return call if call is not None and call.may_continue(call_id, name, arguments) else None

    def _begin(self, given: Json, function: Json) -> _Call:
        index, own = given.get("index"), len(self._calls)
        if isinstance(index, int) and index not in self._own:
            own = index
        while own in self._own:
            own += 1
        call_id = given.get("id") or f"call_{self._prefix}_{len(self._calls)}"
        call = _Call(index=own, id=call_id, name=function.get("name"))
        self._own.add(own)
        self._by_id[call_id] = call
        self._calls.append(call)
        self._by_index[index if isinstance(index, int) else own] = call
        return call


def with_own_ids(calls: list[Json], prefix: str) -> bool:
    """Gives calls of a whole response ids where they have none of their own. True: something was changed."""
    seen: set[Any] = set()
    changed = False
    for place, call in enumerate(calls):
        if not call.get("id") or call["id"] in seen:
            call["id"] = f"call_{prefix}_{place}"
            changed = True
        seen.add(call["id"])
    return changed


def problem_of(calls: Iterable[tuple[Any, Any]]) -> str | None:
    """What is wrong with the arguments of forced calls, each given as name and arguments."""
    for name, arguments in calls:
        if not is_object(arguments or "{}"):
            return f"the arguments of the forced call of {str(name)[:64]!r} are not a JSON object"
    return None


def is_object(text: str) -> bool:
    """Whether it is a JSON object, in the widest sense: with NaN, and with surrogates on their own."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return False
    if len(text) > _LONGEST_CHECKED:
        return True
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        pass
    try:
        return isinstance(json.loads(text), dict)
    except RecursionError:  # it is nested too deeply to be checked
        return True
    except ValueError:
        return False
