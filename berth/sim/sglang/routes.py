"""SGLang 0.5's routes, pages and flat error bodies, as recorded."""

from datetime import UTC, datetime

import orjson

from berth.plan import DialectName, Task
from berth.sim import body_validation, metrics
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_requests import tokenize
from berth.sim.common_responses import python_json_frame
from berth.sim.dialect import Call, EngineStats, Response, Route, Routes, Setup
from berth.sim.sglang.requests import SglangParser
from berth.sim.sglang.responses import SglangFormatter
from berth.sse import DONE

VERSION = "0.5.23"
_GET_OR_POST = {"GET": Route.PING, "POST": Route.PING}
_ROUTES: Routes = {
    "/": {"GET": Route.ROOT},
    "/ping": _GET_OR_POST,
    "/health": {"GET": Route.HEALTH_GENERATE},
    "/health_generate": {"GET": Route.HEALTH_GENERATE},
    "/ready": {"GET": Route.READY},
    "/metrics": {"GET": Route.METRICS},
    "/v1/loads": {"GET": Route.LOAD},
    "/model_info": {"GET": Route.MODEL_INFO},
    "/get_model_info": {"GET": Route.MODEL_INFO},
    "/v1/models": {"GET": Route.MODELS},
    "/v1/models/{model}": {"GET": Route.MODEL},
    "/v1/tokenize": {"POST": Route.TOKENIZE},
    "/tokenize": {"POST": Route.TOKENIZE},
    "/v1/detokenize": {"POST": Route.DETOKENIZE},
    "/detokenize": {"POST": Route.DETOKENIZE},
    "/abort_request": {"POST": Route.ABORT},
    "/release_memory_occupation": {"GET": Route.SLEEP, "POST": Route.SLEEP},
    "/resume_memory_occupation": {"GET": Route.WAKE, "POST": Route.WAKE},
    "/pause_generation": {"GET": Route.PAUSE, "POST": Route.PAUSE},
    "/continue_generation": {"GET": Route.CONTINUE, "POST": Route.CONTINUE},
    "/load_lora_adapter": {"POST": Route.LOAD_ADAPTER},
    "/unload_lora_adapter": {"POST": Route.UNLOAD_ADAPTER},
    "/v1/chat/completions": {"POST": Route.CHAT},
    "/v1/completions": {"POST": Route.COMPLETION},
    "/v1/embeddings": {"POST": Route.EMBEDDING},
    "/v1/rerank": {"POST": Route.RERANK},
    "/v1/classify": {"POST": Route.CLASSIFY},
}
_PATHS_WITHOUT_KEY = ("/health", "/ready", "/metrics")
_KINDS = {400: "BadRequestError", 500: "InternalServerError"}
_FUNCTIONS = {"/v1/chat/completions": "openai_v1_chat_completions", "/v1/completions": "openai_v1_completions"}
_QUEUE_FULL = "The request queue is full."


class Sglang:
    name = DialectName.SGLANG
    vary = True
    probe_s = 1.0

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options
        self.routes = _ROUTES
        self.parser = SglangParser(setup)
        self.formatter = SglangFormatter(setup)

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        if route is Route.METRICS:
            text = metrics.sglang(stats, self._options.name, self._kv_tokens)
            return Response(body=text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")
        if route is Route.MODEL and call.model != self._options.name:
            error = {"message": f"The model '{call.model}' does not exist", "type": "invalid_request_error"}
            return Response(
                status=404, body=orjson.dumps({"error": {**error, "param": "model", "code": "model_not_found"}})
            )
        if route is Route.LOAD:
            load = metrics.sglang_load(stats, self._kv_tokens, self._options.max_running)
            head = {"timestamp": datetime.now(UTC).isoformat(), "version": VERSION, "accelerator": None}
            return Response(body=orjson.dumps({**head, "num_accelerators": 1, "loads": [load]}))
        if route is Route.ABORT:
            return Response(content_type=None)
        return Response(body=orjson.dumps(self._page(route, call, stats)))

    def needs_key(self, path: str) -> bool:
        return not path.startswith(_PATHS_WITHOUT_KEY)

    def invalid(self, problem: InvalidError, path: str) -> Response:
        if problem.kind == "model_attributes_type":  # not an object: the engine does not expect that
            return Response(
                status=500, body=b"Internal Server Error", content_type="text/plain; charset=utf-8", early=True
            )
        report: Json = {
            "type": problem.kind,
            "loc": ("body", *problem.place),
            "msg": problem.message,
            "input": problem.given,
        }
        if problem.context:
            report["ctx"] = problem.context
        plural = "error" if problem.count == 1 else "errors"
        function = _FUNCTIONS.get(path, path.rsplit("/", 1)[-1])
        where = f'\n\n  File "/opt/sglang/srt/entrypoints/http_server.py", line 1870, in {function}\n    POST {path}'
        return _flat(400, f"{problem.count} validation {plural}:\n  {report}{where} [{report}]", "Bad Request")

    def rejected(self, problem: RejectionError) -> Response:
        return _flat(problem.status, problem.message, problem.kind or _KINDS.get(problem.status, str(problem.status)))

    def wrong_media_type(self) -> Response:
        report = {
            "loc": ["header", "content-type"],
            "msg": "Unsupported Media Type: Only 'application/json' is allowed",
            "type": "value_error",
        }
        return _flat(400, f"1 validation error:\n  {report} [{report}]", "Bad Request")

    def queue_full(self, *, stream: bool) -> Response | None:
        if not stream:
            return _flat(503, _QUEUE_FULL, "503")
        data = _stream_error(_QUEUE_FULL, "SERVICE_UNAVAILABLE", 503)
        return Response(body=data, content_type="text/event-stream; charset=utf-8")

    def stream_error(self) -> bytes:
        return _stream_error("Internal server error", "INTERNAL_SERVER_ERROR", 500)

    @property
    def _kv_tokens(self) -> int:
        return self._options.kv_capacity

    def _page(self, route: Route, call: Call, stats: EngineStats) -> Json | str:
        created = int(stats.started)
        match route:
            case Route.MODELS:
                first = self._model(created)
                adapter = {**first, "parent": first["id"], "max_model_len": None}
                return {"object": "list", "data": [first, *({**adapter, "id": one} for one in self._options.adapters)]}
            case Route.MODEL:
                return self._model(created)
            case Route.TOKENIZE:
                ids = tokenize(self._setup, body_validation.parse_object(call.body))
                return {"tokens": ids, "count": len(ids), "max_model_len": self._options.context}
            case Route.DETOKENIZE:
                tokens = body_validation.token_ids(body_validation.parse_object(call.body).get("tokens"))
                return {"text": self._setup.tokenizer.decode(tokens)}
            case Route.MODEL_INFO:
                return {
                    "model_path": self.parser.path,
                    "served_model_name": self._options.name,
                    "tokenizer_path": self.parser.path,
                    "is_generation": self._options.task is Task.GENERATE,
                    "preferred_sampling_params": None,
                    "weight_version": "default",
                    "load_format": "auto",
                }
            case _:
                return "SGLang is running"

    def _model(self, created: int) -> Json:
        return {
            "id": self._options.name,
            "object": "model",
            "created": created,
            "owned_by": "sglang",
            "root": self._options.name,
            "parent": None,
            "max_model_len": self._options.context,
        }


def _flat(status: int, message: str, kind: str) -> Response:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return Response(status=status, body=orjson.dumps(body))


def _stream_error(message: str, kind: str, code: int) -> bytes:
    error = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    return python_json_frame({"error": error}) + DONE
