"""TensorRT-LLM 1.2's dialect of OpenAI's API: it answers 400 to every field that it does not know.

So a body is sorted field by field: known ones pass, harmless ones are dropped, and for the rest UnsupportedError sends
the request to another engine.
"""

from typing import Any, Final

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import request_checks, tokenize
from berth.dialects.answers import name_reasoning, read_answer, upstream_body, upstream_request
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.failures import client_fault
from berth.dialects.fields import read_by
from berth.dialects.stream_decoder import OpenaiStreamDecoder, expected_choices
from berth.dialects.structured_output import Constraint, choice_regex, split_constraint
from berth.plan import DialectName, Task

COMPLETION_TOKENS: Final = 16  # OpenAI's default, and that of the other engines
_NOT_SERVED: Final = {
    Operation.EMBEDDING: "embeddings",
    Operation.RERANK: "rerankers",
    Operation.SCORE: "scores",
    Operation.CLASSIFY: "classifiers",
    Operation.MEDIA: "audio, images or moderations",
}
_EFFORTS: Final = frozenset({"low", "medium", "high"})
# Its 400 is not always the client's fault: every exception becomes one.
_CLIENT_WORDS: Final = (
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


class TrtllmDialect:
    name = DialectName.TRTLLM

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        request_checks.check(request, vocab_size=vocab_size, task=task, dialect=self.name)
        if request.operation in _NOT_SERVED:
            raise UnsupportedError(f"TensorRT-LLM serves no {_NOT_SERVED[request.operation]}", param="model")
        if request.operation in tokenize.TOKENS:
            request = tokenize.counting(request, "TensorRT-LLM")
        body, constraint = split_constraint(upstream_body(request, served_name))
        body = _one_token_limit({name: value for name, value in body.items() if value is not None}, request.operation)
        body.pop("parallel_tool_calls", None)
        if body.pop("no_stop_trim", None):
            body["include_stop_str_in_output"] = True
        body, ignored = read_by(self.name, body, request.operation, "TensorRT-LLM")
        if request.stream:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": False}
        if constraint is not None:
            body["response_format"] = _constrained(constraint)
        elif "response_format" in body:
            body["response_format"] = _response_format(body["response_format"])
        return upstream_request(request, _chat(body) if request.operation is Operation.CHAT else body, ignored)

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body, judge=judge)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        return OpenaiStreamDecoder(request, model, choices=expected_choices(request), judge=judge)


def judge(message: str) -> FailureKind:
    """What a 400 means here: only the words of a validator are believed."""
    kind = client_fault(message)
    if kind is not FailureKind.CLIENT:
        return kind
    lowered = message.lower()
    return FailureKind.CLIENT if any(words in lowered for words in _CLIENT_WORDS) else FailureKind.ENGINE


def _one_token_limit(body: Json, operation: Operation) -> Json:
    """`max_tokens` alone: both names at once are refused."""
    if operation is Operation.COMPLETION:
        return {"max_tokens": COMPLETION_TOKENS, **body}
    limit = body.get("max_completion_tokens")
    rest = {key: value for key, value in body.items() if key != "max_completion_tokens"}
    return rest if limit is None else {**rest, "max_tokens": limit}


def _chat(body: Json) -> Json:
    name_reasoning(body, "")
    messages = [
        {**message, "role": "system"} if message.get("role") == "developer" else message for message in body["messages"]
    ]
    if body.get("reasoning_effort", "low") not in _EFFORTS:
        raise UnsupportedError(
            f"TensorRT-LLM knows the reasoning efforts low, medium and high, not {body['reasoning_effort']!r}",
            param="reasoning_effort",
        )
    rest = {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    return {**rest, "messages": messages, **_tools(body.get("tools"), body.get("tool_choice"))}


def _tools(tools: list[Json] | None, choice: Any) -> Json:
    """Tools without what it refuses. A forced call is neither forced nor parsed there, so it goes elsewhere."""
    if choice not in (None, "none", "auto"):
        raise UnsupportedError("TensorRT-LLM cannot force a tool call", param="tool_choice")
    if not tools:
        return {}
    return {"tools": [_tool(tool) for tool in tools], **({"tool_choice": choice} if choice else {})}


def _tool(tool: Json) -> Json:
    function = {key: tool["function"][key] for key in ("name", "description", "parameters") if key in tool["function"]}
    return {"type": "function", "function": function}


def _response_format(wanted: Json) -> Json:
    """OpenAI's wrapper around a schema would be taken for the schema itself."""
    if wanted.get("type") != "json_schema":
        return wanted
    return {"type": "json", "schema": (wanted.get("json_schema") or {}).get("schema") or {}}


def _constrained(constraint: Constraint) -> Json:
    if constraint.options:
        name = next(iter(constraint.options))
        raise UnsupportedError(
            f"TensorRT-LLM does not support {name!r} in {constraint.field!r}", param=constraint.field
        )
    match constraint.kind:
        case "json":
            return {"type": "json", "schema": constraint.value}
        case "json_object":
            return {"type": "json_object"}
        case "regex":
            return {"type": "regex", "regex": constraint.value}
        case "choice":
            return {"type": "regex", "regex": choice_regex(constraint.value)}
        case "grammar":
            return {"type": "ebnf", "ebnf": constraint.value}
    raise UnsupportedError("TensorRT-LLM takes no structural tags of vLLM", param=constraint.field)
