"""The standard OTEL_* variables that say whether there are traces, and of which requests.

All others of their family (compression, certificates, limits of batches, ...) are handed to the tracer as they are.
"""

from collections.abc import Mapping
from typing import Final

from berth.boot.config.parsers import unquoted
from berth.boot.config.settings import Settings
from berth.plan import Tracing

TRACES_PATH: Final = "/v1/traces"


def tracing(settings: Settings) -> Tracing | None:
    """None: no traces are wanted."""
    endpoint = settings.otel_traces_endpoint
    if not endpoint and settings.otel_endpoint:
        endpoint = settings.otel_endpoint + TRACES_PATH
    if not endpoint or settings.otel_disabled:
        return None
    name = settings.otel_sampler.removeprefix("parentbased_")
    ratios = {"always_on": 1.0, "always_off": 0.0, "traceidratio": settings.otel_sampler_ratio}
    return Tracing(endpoint=endpoint, ratio=ratios[name], follows_parent=name != settings.otel_sampler)


def tracer_variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for the tracer, and for engines that have spans of their own."""
    if tracing(settings) is None:
        return {}
    given = {
        name: unquoted(text)
        for name, text in environ.items()
        if name.startswith("OTEL_") and text and not name.endswith("_FILE")
    }
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": settings.otel_headers} if settings.otel_headers else {}
    return {**given, **headers, "OTEL_SERVICE_NAME": settings.otel_service_name}
