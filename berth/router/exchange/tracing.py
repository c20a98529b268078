"""The place of a request in a trace: W3C's traceparent of the client, and those that engines get.

The router makes no spans: it decides which requests have some, and gives them their ids. Engines never get the client's
own traceparent: their spans are children of the attempt, whose id is made from that of the request. Without tracing
nothing of a client's trace is passed on, since a span that nothing sends would be missing in the middle of it.
"""

import os
import random
import re
from binascii import unhexlify
from collections.abc import Mapping
from typing import Final

from berth.ipc.journal import Trace
from berth.plan import Tracing

_TRACEPARENT: Final = re.compile(  # versions after 00 may have more at their end
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_LONGEST_STATE: Final = 512  # bytes of a tracestate that W3C asks to pass on
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e]+")
_SAMPLED: Final = b"13579bdf"  # last digits of flags
_new: Final = tuple.__new__  # that of a named tuple is Python


class Traces:
    """Of one worker."""

    def __init__(self, wanted: Tracing) -> None:
        self._bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - ids, not secrets
        self._bound = round(wanted.ratio * (1 << 64))  # of the lower half of a trace id: as OpenTelemetry's samplers
        self._follows_parent = wanted.follows_parent

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """Of a request with these headers. One with an invalid traceparent begins a trace, as W3C says."""
        span_id = self._bits(64).to_bytes(8)
        given = headers.get(b"traceparent")
        found = _TRACEPARENT.fullmatch(given) if given is not None else None
        if given is None or found is None or (found[4] and given.startswith(b"00")):
            trace_id = self._bits(128).to_bytes(16)
            return _new(Trace, (trace_id, span_id, b"", int.from_bytes(trace_id[8:]) < self._bound, ""))
        trace, parent, flags = found.group(1, 2, 3)
        trace_id = unhexlify(trace)
        sampled = flags[1] in _SAMPLED if self._follows_parent else int.from_bytes(trace_id[8:]) < self._bound
        state = headers.get(b"tracestate", b"")
        kept = state and len(state) <= _LONGEST_STATE and _PRINTABLE.fullmatch(state)
        return _new(Trace, (trace_id, span_id, unhexlify(parent), sampled, state.decode() if kept else ""))


def headers(trace: Trace, attempt: int) -> dict[str, str]:
    """What the engine gets: its span, if it makes one, is a child of this attempt's."""
    trace_id, span_id, _, sampled, state = trace
    parent_id = int.from_bytes(span_id) ^ attempt  # as journal.attempt_id
    text = f"00-{trace_id.hex()}-{parent_id:016x}-{'01' if sampled else '00'}"
    return {"traceparent": text, "tracestate": state} if state else {"traceparent": text}
