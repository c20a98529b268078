"""TensorRT-LLM 1.2's routes, pages and flat error bodies, from its sources and from public reports."""

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
        self._reported_tokens = 0  # in earlier responses of the metrics page

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        if route is Route.PROMETHEUS:
            text = metrics.trtllm(stats)
            return Response(body=text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")
        if route is Route.METRICS:
            # the iterations since the last call: none if nothing was generated or runs
            is_active = stats.generation_tokens > self._reported_tokens or stats.running or stats.waiting
            self._reported_tokens = stats.generation_tokens
            iterations = [metrics.trtllm_iteration(stats, stats.generation_tokens)] if is_active else []
            return Response(body=orjson.dumps(iterations))
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


def _flat(status: int, message: str, kind: str) -> Response:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return Response(status=status, body=orjson.dumps(body))
