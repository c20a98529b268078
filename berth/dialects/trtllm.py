"""TensorRT-LLM 1.2's dialect of OpenAI's API: it rejects every field that it does not know with 400.

So a body is sorted field by field: known fields pass, harmless ones are dropped, and for the rest UnsupportedError
sends the request to another engine.
"""

from collections.abc import Mapping
from typing import Final

from berth.canonical import FailureKind, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import engine_load, tokenize
from berth.dialects.answers import upstream_body, upstream_request
from berth.dialects.base import UnsupportedError
from berth.dialects.choices import rename_reasoning
from berth.dialects.openai import METRICS_PATH, OpenaiDialect
from berth.dialects.requests.fields import select_fields
from berth.dialects.requests.structured_output import split_constraint, trtllm_response_format
from berth.dialects.requests.values import NEAREST_EFFORTS, trtllm_sampling
from berth.plan import DialectName
from berth.state import EngineLoad

COMPLETION_TOKENS: Final = 16  # OpenAI's default, and that of the other engines
_NOT_SERVED: Final = {
    Operation.EMBEDDING: "embeddings",
    Operation.RERANK: "rerankers",
    Operation.SCORE: "scores",
    Operation.CLASSIFY: "classifiers",
    Operation.MEDIA: "audio, images or moderations",
}
_EFFORTS: Final = frozenset({"low", "medium", "high"})
# In messages of its validation. It returns 400 for every exception, also for its own.
_CLIENT_FAULTS: Final = (
    "validation error",
    "field required",
    "input should be",
    "value error",
    "must be",
    "should be",
    "is required",
    "cannot be empty",
    "not a valid",
    "invalid",
    "not allowed",
)


class TrtllmDialect(OpenaiDialect):
    name = DialectName.TRTLLM
    honors_n = True
    continues_chat = True
    continues_completion = True
    fragile = False
    needs_uuid = False
    health_paths = ("/health_generate",)
    health_timeout_s = 30.0
    load_paths = (METRICS_PATH,)
    load_timeout_s = 3.0  # it waits 2 s for an iteration
    error_rules = ()

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation in _NOT_SERVED:
            raise UnsupportedError(f"TensorRT-LLM does not serve {_NOT_SERVED[request.operation]}", param="model")
        if request.operation in tokenize.TOKENS:
            request = tokenize.count_request(request, "TensorRT-LLM")
        body, constraint = split_constraint(upstream_body(request, served_name))
        body.pop("parallel_tool_calls", None)
        if body.get("n", 1) > 1 or body.get("max_tokens") == 0:
            trtllm_sampling(body, request.operation)
        if request.operation is Operation.COMPLETION:
            body.setdefault("max_tokens", COMPLETION_TOKENS)
        elif "max_completion_tokens" in body:  # both names at once are rejected
            body["max_tokens"] = body.pop("max_completion_tokens")
        if body.pop("no_stop_trim", None):
            body["include_stop_str_in_output"] = True
        body, ignored = select_fields(self.name, body, request.operation, "TensorRT-LLM", self.passed)
        if request.stream:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": False}
        if constraint is not None:
            body["response_format"] = trtllm_response_format(constraint)
        elif (body.get("response_format") or {}).get("type") == "json_schema":
            # The engine would take OpenAI's wrapper around a schema for the schema itself.
            schema = (body["response_format"].get("json_schema") or {}).get("schema") or {}
            body["response_format"] = {"type": "json", "schema": schema}
        return upstream_request(request, _chat(body) if request.operation is Operation.CHAT else body, ignored)

    def load(self, pages: Mapping[str, bytes], before: EngineLoad | None) -> EngineLoad | None:
        page = pages.get(METRICS_PATH)
        return engine_load.of_trtllm_iterations(page, before) if page else None

    def judge(self, status: int, message: str, error: Json) -> FailureKind:
        """Only messages of its validation show that the client is at fault."""
        kind = super().judge(status, message, error)
        if kind is not FailureKind.CLIENT:
            return kind
        lowered = message.lower()
        return FailureKind.CLIENT if any(text in lowered for text in _CLIENT_FAULTS) else FailureKind.ENGINE


def _chat(body: Json) -> Json:
    """Roles, reasoning and tools without what it rejects. A forced call is neither enforced nor parsed there."""
    effort = body.get("reasoning_effort", "low")
    if effort == "none":  # what vLLM and SGLang make of it
        del body["reasoning_effort"]
        body["chat_template_kwargs"] = {"enable_thinking": False, **body.get("chat_template_kwargs", {})}
    elif effort in NEAREST_EFFORTS:
        body["reasoning_effort"] = NEAREST_EFFORTS[effort]
    elif effort not in _EFFORTS:
        message = f"TensorRT-LLM supports the reasoning efforts 'low', 'medium' and 'high', not {effort!r}"
        raise UnsupportedError(message, param="reasoning_effort")
    choice = body.pop("tool_choice", None)
    if choice not in (None, "none", "auto"):
        raise UnsupportedError("TensorRT-LLM cannot force a tool call", param="tool_choice")
    rename_reasoning(body, "")
    body["messages"] = [
        {**message, "role": "system"} if message.get("role") == "developer" else message for message in body["messages"]
    ]
    if tools := body.pop("tools", None):
        functions = [tool["function"] for tool in tools]
        known = ("name", "description", "parameters")
        body["tools"] = [
            {"type": "function", "function": {key: function[key] for key in known if key in function}}
            for function in functions
        ]
        if choice:
            body["tool_choice"] = choice
    return body
