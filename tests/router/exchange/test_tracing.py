"""traceparent of clients, and those that engines get."""

import pytest

from berth.ipc.journal import attempt_id
from berth.plan import Tracing
from berth.router.exchange.tracing import Traces, headers

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ALL = Tracing(endpoint="http://x/v1/traces")


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_request_is_a_child_of_the_clients_span(given: str, *, sampled: bool) -> None:
    trace = Traces(ALL).begin({b"traceparent": given.encode()})
    assert (trace.trace_id.hex(), trace.parent_id.hex(), trace.sampled) == (TRACE, SPAN, sampled)
    assert len(trace.span_id) == 8
    assert trace.span_id != trace.parent_id


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-1", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-x"),
        *(f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"),
        *(f"cc-{TRACE}-{SPAN}-01x", f" 00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01\n", "00-" + "0" * 100_000),
    ],
)
def test_request_with_an_invalid_one_begins_a_trace(given: str) -> None:
    trace = Traces(ALL).begin({b"traceparent": given.encode()})
    assert trace.trace_id.hex() != TRACE
    assert (trace.parent_id, trace.sampled, len(trace.trace_id)) == (b"", True, 16)


@pytest.mark.parametrize(
    ("wanted", "flag", "share"),
    [
        (Tracing(endpoint="x", ratio=0.25), None, 0.25),
        (Tracing(endpoint="x", ratio=0.0), None, 0.0),
        (Tracing(endpoint="x", ratio=0.0), "01", 1.0),
        (Tracing(endpoint="x", ratio=1.0), "00", 0.0),
        (Tracing(endpoint="x", ratio=0.0, follows_parent=False), "01", 0.0),
        (Tracing(endpoint="x", ratio=1.0, follows_parent=False), "00", 1.0),
    ],
)
def test_samplers(wanted: Tracing, flag: str | None, share: float) -> None:
    traces = Traces(wanted)
    given = {} if flag is None else {b"traceparent": f"00-{TRACE}-{SPAN}-{flag}".encode()}
    sampled = sum(traces.begin(given).sampled for _ in range(4000)) / 4000
    assert sampled == pytest.approx(share, abs=0.05)


def test_engines_get_the_span_of_the_attempt_and_never_the_clients() -> None:
    trace = Traces(ALL).begin({b"traceparent": f"00-{TRACE}-{SPAN}-00".encode(), b"tracestate": b"a=1,b=2"})
    seen = [headers(trace, attempt) for attempt in (1, 2)]
    ids = [one["traceparent"].split("-") for one in seen]
    assert [(one[0], one[1], one[3]) for one in ids] == [("00", TRACE, "00")] * 2
    assert [one[2] for one in ids] == [attempt_id(trace.span_id, attempt).hex() for attempt in (1, 2)]
    assert len({SPAN, trace.span_id.hex(), ids[0][2], ids[1][2]}) == 4
    assert {one["tracestate"] for one in seen} == {"a=1,b=2"}


@pytest.mark.parametrize("state", [b"", b"a" * 513, b"a=\xff", b"a=1\r\nx: y"])
def test_unusable_tracestate_is_left_out(state: bytes) -> None:
    trace = Traces(ALL).begin({b"traceparent": f"00-{TRACE}-{SPAN}-01".encode(), b"tracestate": state})
    assert "tracestate" not in headers(trace, 1)


def test_workers_choose_ids_of_their_own() -> None:
    ids = {traces.begin({}).trace_id for traces in (Traces(ALL), Traces(ALL)) for _ in range(100)}
    assert len(ids) == 200
