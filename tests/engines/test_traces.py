"""Engines with spans of their own: they send them to the collector, and to no one without one."""

from dataclasses import replace

import pytest

from berth.engines.registry import ENGINES
from berth.plan import EngineName
from tests.fakes.orders import launch_order

URL = "http://c:4318/v1/traces"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (EngineName.VLLM, ("--otlp-traces-endpoint", URL)),
        (
            EngineName.SGLANG,
            ("--enable-trace", "--otlp-traces-endpoint", URL, "--otlp-service-name", "chat-engine"),
        ),
        (EngineName.TRTLLM, ("--otlp_traces_endpoint", URL)),
    ],
)
def test_sends_spans_where_traces_are_wanted(engine: EngineName, words: tuple[str, ...]) -> None:
    launch = ENGINES[engine].launch(replace(launch_order(gpus=1), traces_endpoint=URL))
    at = launch.argv.index(words[0])
    assert launch.argv[at : at + len(words)] == words
    assert launch.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert launch.env["OTEL_SERVICE_NAME"] == "chat-engine"
    assert not any(name.endswith("_ENDPOINT") for name in launch.env if name.startswith("OTEL_"))
    assert launch.takes_otel

    without = ENGINES[engine].launch(launch_order(gpus=1))
    assert URL not in without.argv
    assert not any(name.startswith("OTEL_") for name in without.env)
    assert not without.takes_otel


def test_each_engine_that_sends_spans_has_the_flag_with_which_users_do_it_themselves() -> None:
    assert {name for name, engine in ENGINES.items() if engine.traces_flags} == {
        *(EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)
    }
