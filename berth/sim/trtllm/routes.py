"""TensorRT-LLM 1.2's wire: routes, pages and flat errors, from its sources and from what others saw."""

import orjson

from berth.plan import DialectName
from berth.sim import metrics
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.dialect import Call, EngineStats, Response, Route, Routes, Setup
from berth.sim.trtllm.requests import TrtllmParser
from berth.sim.trtllm.responses import TrtllmFormatter

VERSION = "1.2.1"
_ROUTES: Routes = {
    "/health": {"GET": Route.HEALTH},
    "/health_generate": {"GET": Route.HEALTH_GENERATE},
    "/version": {"GET": Route.VERSION},
    "/metrics": {"GET": Route.METRICS},
    "/prometheus/metrics": {"GET": Route.PROMETHEUS},
    "/v1/models": {"GET": Route.MODELS},
    "/v1/chat/completions": {"POST": Route.CHAT},
    "/v1/completions": {"POST": Route.COMPLETION},
}


class Trtllm:
    name = DialectName.TRTLLM
    vary = False
    probe_s = 0.0

    def __init__(self, setup: Setup) -> None:
        self._options = setup.options
        self.routes = _ROUTES
        self.parser = TrtllmParser(setup)
        self.formatter = TrtllmFormatter(setup)
        self._told = 0  # tokens that the metrics page has already reported

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        if route is Route.PROMETHEUS:
            text = metrics.trtllm(stats)
            return Response(body=text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")
        if route is Route.METRICS:
            return Response(body=orjson.dumps(self._drained(stats)))
        if route is Route.VERSION:
            return Response(body=orjson.dumps({"version": VERSION}))
        model = {
            "id": self._options.name,
            "object": "model",
            "created": int(stats.started),
            "owned_by": "tensorrt_llm",
        }
        return Response(body=orjson.dumps({"object": "list", "data": [model]}))

    def needs_key(self, path: str) -> bool:
        return False

    def invalid(self, problem: InvalidError, path: str) -> Response:
        report: Json = {
            "type": problem.kind,
            "loc": ("body", *problem.place),
            "msg": problem.message,
            "input": problem.given,
        }
        return _flat(400, str([report]), "BadRequestError")

    def rejected(self, problem: RejectionError) -> Response:
        kind = "BadRequestError" if problem.status == 400 else "InternalServerError"
        return _flat(problem.status, problem.message, problem.kind or kind)

    def wrong_media_type(self) -> Response:
        return self.invalid(InvalidError("model_attributes_type", (), "Input should be a valid dictionary", "..."), "")

    def queue_full(self, *, stream: bool) -> Response | None:
        return None

    def stream_error(self) -> bytes:
        return b""

    def _drained(self, stats: EngineStats) -> list[Json]:
        """Statistics since the last call, none where nothing was generated or runs: reading takes them away."""
        fresh = stats.generation_tokens - self._told
        self._told = stats.generation_tokens
        if not fresh and not stats.running and not stats.waiting:
            return []
        return [metrics.trtllm_iteration(stats, stats.generation_tokens)]


def _flat(status: int, message: str, kind: str) -> Response:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return Response(status=status, body=orjson.dumps(body))
