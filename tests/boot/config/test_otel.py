"""The standard variables of OpenTelemetry."""

from pathlib import Path

import pytest

from berth.boot.config.otel import tracer_variables, tracing
from berth.boot.config.settings import load
from berth.errors import ConfigError
from berth.plan import Tracing

GENERAL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}
TRACES = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/otlp/v1/traces"}


def wanted(**variables: str) -> Tracing | None:
    return tracing(load({"BERTH_MODELS": "m=x@sim", **variables}, cpus=1))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({**GENERAL, "OTEL_SDK_DISABLED": "true"}, None),
        (GENERAL, Tracing(endpoint="http://c:4318/v1/traces")),
        (TRACES, Tracing(endpoint="https://c/otlp/v1/traces")),
        (GENERAL | TRACES, Tracing(endpoint="https://c/otlp/v1/traces")),
        ({**TRACES, "OTEL_TRACES_SAMPLER_ARG": "0.1"}, Tracing(endpoint="https://c/otlp/v1/traces")),
        (
            {**TRACES, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            Tracing(endpoint="https://c/otlp/v1/traces", ratio=0.1),
        ),
        (
            {**TRACES, "OTEL_TRACES_SAMPLER": "always_off"},
            Tracing(endpoint="https://c/otlp/v1/traces", ratio=0.0, follows_parent=False),
        ),
    ],
)
def test_which_requests_have_spans(variables: dict[str, str], expected: Tracing | None) -> None:
    assert wanted(**variables) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@c:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces?key=x"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ],
)
def test_what_berth_cannot_do_is_refused_at_boot(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        wanted(**{**GENERAL, name: value})


def test_protocol_counts_where_there_are_traces() -> None:
    assert wanted(OTEL_EXPORTER_OTLP_PROTOCOL="grpc") is None
    assert wanted(**GENERAL, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_SDK_DISABLED="true") is None
    overruled = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert wanted(**GENERAL, **overruled)


def test_tracer_gets_the_whole_family(tmp_path: Path) -> None:
    environ = {
        **GENERAL,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "'gzip'",
        "OTEL_OF_A_LATER_VERSION": "x",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "",
        "OTHER": "y",
    }
    path = tmp_path / "headers"
    path.write_text("authorization=Bearer%20x\n")
    environ["OTEL_EXPORTER_OTLP_HEADERS_FILE"] = str(path)
    settings = load({"BERTH_MODELS": "m=x@sim", **environ}, cpus=1)
    assert tracer_variables(settings, environ) == {
        **GENERAL,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_OF_A_LATER_VERSION": "x",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
        "OTEL_SERVICE_NAME": "berth",
    }
    assert "Bearer" not in repr(settings)
    assert tracer_variables(load({"BERTH_MODELS": "m=x@sim"}, cpus=1), environ) == {}
