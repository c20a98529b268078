"""vLLM's routes, pages and error bodies, as recorded of vLLM 0.32.0."""

import orjson

from berth.plan import DialectName, Task
from berth.sim import body_validation, metrics
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_requests import tokenize
from berth.sim.common_responses import hex_id, python_json_frame
from berth.sim.dialect import STATUS_TEXTS, Call, EngineStats, Response, Route, Routes, Setup
from berth.sim.vllm.requests import VllmParser
from berth.sim.vllm.responses import VERSION, VllmFormatter
from berth.sse import DONE

_COMMON: Routes = {
    "/health": {"GET": Route.HEALTH},
    "/ping": {"GET": Route.PING, "POST": Route.PING},
    "/version": {"GET": Route.VERSION},
    "/load": {"GET": Route.LOAD},
    "/metrics": {"GET": Route.METRICS},
    "/v1/models": {"GET": Route.MODELS},
    "/tokenize": {"POST": Route.TOKENIZE},
    "/detokenize": {"POST": Route.DETOKENIZE},
    "/kv_event_sources": {"GET": Route.EMPTY},
}
_SLEEP: Routes = {  # in its development mode only
    "/sleep": {"POST": Route.SLEEP},
    "/wake_up": {"POST": Route.WAKE},
    "/is_sleeping": {"GET": Route.ASLEEP},
    "/collective_rpc": {"POST": Route.RPC},
}
_ADAPTERS: Routes = {  # with VLLM_ALLOW_RUNTIME_LORA_UPDATING only
    "/v1/load_lora_adapter": {"POST": Route.LOAD_ADAPTER},
    "/v1/unload_lora_adapter": {"POST": Route.UNLOAD_ADAPTER},
}
_SIMILARITY: Routes = {
    **{path: {"POST": Route.RERANK} for path in ("/rerank", "/v1/rerank", "/v2/rerank")},
    **{path: {"POST": Route.SCORE} for path in ("/score", "/v1/score")},
}
_TASKS: dict[Task, Routes] = {
    Task.GENERATE: {
        "/v1/chat/completions": {"POST": Route.CHAT},
        "/v1/completions": {"POST": Route.COMPLETION},
    },
    Task.EMBED: {"/v1/embeddings": {"POST": Route.EMBEDDING}, **_SIMILARITY},
    Task.RERANK: {"/classify": {"POST": Route.CLASSIFY}, **_SIMILARITY},
    Task.CLASSIFY: {"/classify": {"POST": Route.CLASSIFY}},
}
_KINDS = {400: "BadRequestError", 404: "NotFoundError", 429: "TooManyRequests", 503: "Service Unavailable"}


class Vllm:
    name = DialectName.VLLM
    vary = True
    probe_s = 0.0

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options
        self.routes: Routes = {
            **_COMMON,
            **_TASKS[setup.options.task],
            **(_SLEEP if setup.options.can_sleep else {}),
            **(_ADAPTERS if setup.options.adapter_slots else {}),
        }
        self.parser = VllmParser(setup)
        self.formatter = VllmFormatter(setup)

    def respond(self, route: Route, call: Call, stats: EngineStats) -> Response:
        if route is Route.METRICS:
            text = metrics.vllm(stats, self._options.name, self._options.kv_capacity)
            return Response(body=text.encode(), content_type="text/plain; version=1.0.0; charset=utf-8")
        page: Json = {}
        if route is Route.MODELS:
            created, first = int(stats.started), self._options.name
            models = [self._model(name, created) for name in self._options.names]
            models += [{**self._model(name, created), "parent": first} for name in self._options.adapters]
            page = {"object": "list", "data": models}
        elif route is Route.TOKENIZE:
            body = body_validation.parse_object(call.body)
            self.parser.check_model(body)
            ids = tokenize(self._setup, body)
            texts = [self._setup.tokenizer.text(token) for token in ids] if body.get("return_token_strs") else None
            page = {"count": len(ids), "max_model_len": self._options.context, "tokens": ids, "token_strs": texts}
        elif route is Route.DETOKENIZE:
            tokens = body_validation.token_ids(body_validation.parse_object(call.body).get("tokens"))
            page = {"prompt": self._setup.tokenizer.decode(self.parser.prompt_ids(tokens))}
        elif route is Route.LOAD:
            page = {"server_load": stats.running + stats.waiting}
        elif route is Route.VERSION:
            page = {"version": VERSION}
        return Response(body=orjson.dumps(page))

    def needs_key(self, path: str) -> bool:
        return path.startswith("/v1/")

    def invalid(self, problem: InvalidError, path: str) -> Response:
        given = str(problem.given)
        if isinstance(problem.given, dict | list):
            given = f"<{type(problem.given).__name__} of {len(problem.given)} items>"
        place = ".".join(str(part) for part in ("body", *problem.place))
        report: Json = {"type": problem.kind, "loc": place, "msg": problem.message, "input": given}
        if problem.context:
            report["ctx"] = problem.context
        plural = "error" if problem.count == 1 else "errors"
        return self.rejected(
            RejectionError(f"{problem.count} validation {plural}:\n  {report}", kind="Bad Request", param=place)
        )

    def rejected(self, problem: RejectionError) -> Response:
        kind = problem.kind or _KINDS.get(problem.status, "InternalServerError")
        error = {"message": problem.message, "type": kind, "param": problem.param, "code": problem.status}
        return Response(status=problem.status, body=orjson.dumps({"error": error}))

    def wrong_media_type(self) -> Response:
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        return self.rejected(RejectionError(message, kind="Bad Request"))

    def queue_full(self, *, stream: bool) -> Response | None:
        return self.rejected(RejectionError(STATUS_TEXTS[503], status=503))

    def stream_error(self) -> bytes:
        error = {"message": STATUS_TEXTS[500], "type": "InternalServerError", "param": None, "code": 500}
        return python_json_frame({"error": error}) + DONE

    def _model(self, name: str, created: int) -> Json:
        permission = {
            "id": f"modelperm-{hex_id()}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": f"models/{self._options.name}",
            "parent": None,
            "max_model_len": self._options.context,
            "permission": [permission],
        }
