"""Traces of a whole appliance, as a collector gets them."""

import json
from collections.abc import Iterator
from itertools import count

import httpx
import psutil
import pytest

from tests.e2e.appliance import Appliance, end, sim_models, wait_for
from tests.fakes.collector import CLIENT, SERVER, Collector, Span

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PARENT = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def berth(collector: Collector) -> Iterator[Appliance]:
    models = sim_models("m", "vllm --ttft 20ms --itl 20ms", "sglang --ttft 20ms --itl 20ms", standby="hot")
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "box",
        "OTEL_OF_A_LATER_VERSION": "x",
    }
    with Appliance(models, BERTH_AFFINITY="0", **variables) as appliance:
        yield appliance.wait(lambda: {one["status"] for one in appliance.replicas().values()} == {"ready"})


def headers(trace_id: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{PARENT}-01"}


def spans(collector: Collector, trace_id: str, count: int) -> list[Span]:
    def found() -> list[Span]:
        return [span for span in collector.spans if span.trace_id == trace_id]

    wait_for(lambda: len(found()) >= count, 15, lambda: f"{collector.spans}")
    return found()


def test_request_is_a_tree_under_the_clients_span(berth: Appliance, collector: Collector) -> None:
    trace_id = "1" * 32
    body = {"model": "m", "messages": [{"role": "user", "content": "xyzzy"}]}
    answer = berth.http.post("/v1/chat/completions", json=body, headers=headers(trace_id))
    assert answer.headers["x-berth-trace"] == trace_id

    server, attempt = sorted(spans(collector, trace_id, 2), key=lambda span: span.kind)

    assert (server.kind, server.parent_id, server.resource["service.name"]) == (SERVER, PARENT, "box")
    assert (attempt.kind, attempt.parent_id) == (CLIENT, server.span_id)
    assert collector.headers[-1]["x-key"] == "secret"
    assert not any(b"xyzzy" in sent for sent in collector.bodies)
    for dialect in ("vllm", "sglang"):
        environ = berth.find("sim", "--dialect", dialect).environ()
        assert [name for name in environ if name.startswith("OTEL_")] == []


def test_fallback_is_one_tree(berth: Appliance, collector: Collector) -> None:
    """One of the engines resets every connection before it responds: sooner or later it is the first choice."""
    broken = berth.plan().replicas[0]
    fault = {"reset-before": True}
    httpx.post(f"{broken.url}/sim/faults", json=fault, trust_env=False).raise_for_status()
    try:
        for number in count(0x300):
            trace_id = f"{number:032x}"
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
            answer = berth.http.post("/v1/chat/completions", json=body, headers=headers(trace_id))
            assert answer.status_code == 200
            if answer.headers["x-berth-attempts"] == "2":
                break
    finally:
        httpx.delete(f"{broken.url}/sim/faults", trust_env=False).raise_for_status()

    (server,), attempts = by_kind(spans(collector, trace_id, 3))

    assert {span.parent_id for span in attempts} == {server.span_id}
    assert [span.attributes["berth.fallback"] for span in attempts] == [False, True]
    assert [span.failed for span in (server, *attempts)] == [False, True, False]
    assert attempts[0].attributes["berth.replica"] == broken.name


def by_kind(found: list[Span]) -> tuple[list[Span], list[Span]]:
    """That of the request, and those of its attempts in order."""
    attempts = sorted((span for span in found if span.kind == CLIENT), key=lambda span: span.start)
    return [span for span in found if span.kind == SERVER], attempts


def test_continued_stream_is_one_tree(berth: Appliance, collector: Collector) -> None:
    trace_id = "2" * 32
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with berth.http.stream("POST", "/v1/chat/completions", json=body, headers=headers(trace_id)) as answer:
        first = answer.headers["x-berth-replica"]
        (dialect,) = [one["dialect"] for name, one in berth.replicas().items() if name == first]
        lines = answer.iter_lines()
        for _ in range(8):
            next(lines)
        end(berth.find("sim", "--dialect", dialect))
        ending = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
    assert ending["choices"][0]["finish_reason"] == "stop"

    (server,), attempts = by_kind(spans(collector, trace_id, 3))

    assert {span.parent_id for span in attempts} == {server.span_id}
    assert [span.attributes["berth.continuation"] for span in attempts] == [False, True]
    assert [span.failed for span in attempts] == [True, False]
    assert server.attributes["berth.continued"]


def test_tracer_may_die_and_the_collector_too(berth: Appliance, collector: Collector) -> None:
    collector.status = 400
    tracer = berth.find("tracer")
    assert berth.chat("m").status_code == 200
    berth.wait(lambda: dropped(berth) > 0, 30)
    collector.status = 200
    end(tracer)
    berth.wait(lambda: berth.find("tracer") != tracer)
    wait_for(lambda: is_traced(berth, collector), 15, berth.output)


def dropped(berth: Appliance) -> float:
    lines = berth.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("berth_trace_spans_dropped_total "))


def is_traced(berth: Appliance, collector: Collector) -> bool:
    """A request that is made now."""
    trace_id = berth.chat("m").headers["x-berth-trace"]
    try:
        wait_for(lambda: any(span.trace_id == trace_id for span in collector.spans), 2, lambda: "")
    except (AssertionError, psutil.Error):
        return False
    return True
