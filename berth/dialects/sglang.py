"""SGLang's spelling of OpenAI's API. Checked against the responses of 0.5.23."""

from dataclasses import replace

from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import pooling, request_checks, tokenize
from berth.dialects.answers import name_reasoning, read_answer, upstream_body, upstream_request
from berth.dialects.base import StreamDecoder, UnsupportedError
from berth.dialects.fields import read_by
from berth.dialects.media import media_request
from berth.dialects.media_stream import MediaStreamDecoder
from berth.dialects.stream_decoder import OpenaiStreamDecoder, expected_choices
from berth.dialects.structured_output import Constraint, choice_regex, split_constraint
from berth.plan import DialectName, Task


class SglangDialect:
    name = DialectName.SGLANG

    def request(
        self,
        request: InferenceRequest,
        served_name: str,
        *,
        task: Task | None = None,
        vocab_size: int | None = None,
    ) -> UpstreamRequest:
        request_checks.check(request, vocab_size=vocab_size, task=task, dialect=self.name)
        if request.operation is Operation.MEDIA:
            return media_request(request, engine_name(served_name))
        if request.operation in pooling.POOLING:
            _refuse_adapter(request)
            return pooling.sglang_request(request, engine_name(served_name))
        if request.operation in tokenize.TOKENS:
            return _of_tokens(request, engine_name(served_name))
        body, constraint = split_constraint(upstream_body(request, engine_name(served_name)))
        if body.pop("include_stop_str_in_output", None):
            body["no_stop_trim"] = True
        if body.get("continue_final_message"):
            body.pop("add_generation_prompt", None)
        body, ignored = read_by(self.name, body, request.operation, "SGLang")
        if constraint is not None:
            body |= _constrained(constraint)
        if request.operation is Operation.CHAT:
            name_reasoning(body, "reasoning_content")
            if body.get("tool_choice") not in (None, "none", "auto"):
                body["tools"] = [_enforced(tool) for tool in body["tools"]]
        if request.adapter:
            body["lora_path"] = request.adapter  # a name; the other way, MODEL:NAME, parts it at any colon
        return upstream_request(request, body, ignored)

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        return read_answer(request, model, status, body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        return OpenaiStreamDecoder(request, model, choices=expected_choices(request))


def _refuse_adapter(request: InferenceRequest) -> None:
    if request.adapter:
        raise UnsupportedError(f"SGLang cannot {request.operation} with a LoRA adapter", param="model")


def _of_tokens(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    body = dict(request.body)
    name_reasoning(body, "reasoning_content")
    return tokenize.sglang_request(replace(request, body=body), served_name)


def _enforced(tool: Json) -> Json:
    """A forced call has arguments of the tool's schema at vLLM in any case, here only if that is asked for."""
    return {**tool, "function": {"strict": True, **tool["function"]}}


def engine_name(served_name: str) -> str:
    """SGLang takes what follows a colon for a LoRA adapter, and never looks at the rest: `qwen3:8b` needs another."""
    return served_name.replace(":", "-")


def _constrained(constraint: Constraint) -> Json:
    """SGLang's spelling: `regex` and `ebnf` beside `response_format`."""
    if constraint.options:
        name = next(iter(constraint.options))
        raise UnsupportedError(f"SGLang does not support {name!r} in {constraint.field!r}", param=constraint.field)
    match constraint.kind:
        case "json":
            schema = {"name": "answer", "schema": constraint.value, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "regex":
            return {"regex": constraint.value}
        case "choice":
            return {"regex": choice_regex(constraint.value)}
        case "grammar":
            return {"ebnf": constraint.value}
    raise UnsupportedError("SGLang takes structural tags in 'response_format' only", param=constraint.field)
