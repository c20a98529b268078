"""SGLang's spelling of OpenAI's API. Checked against the responses of 0.5.23."""

from collections.abc import Mapping
from dataclasses import replace

from berth.canonical import InferenceRequest, Operation, UpstreamRequest
from berth.dialects import engine_load, pooling, tokenize
from berth.dialects.answers import upstream_body, upstream_request
from berth.dialects.choices import rename_reasoning
from berth.dialects.media import media_request
from berth.dialects.openai import METRICS_PATH, OpenaiDialect
from berth.dialects.requests.fields import select_fields
from berth.dialects.requests.forced_calls import strict_tools
from berth.dialects.requests.structured_output import sglang_fields, split_constraint
from berth.dialects.requests.values import NOT_IN_SGLANG, sglang_values
from berth.plan import DialectName
from berth.state import EngineLoad


class SglangDialect(OpenaiDialect):
    name = DialectName.SGLANG
    honors_n = True
    continues_chat = True
    continues_completion = True
    fragile = False
    needs_uuid = False
    health_paths = ("/health",)
    health_timeout_s = 25.0  # it generates a token; its own timeout is 20 s
    load_paths = ("/v1/loads", METRICS_PATH)  # attached ones may have no metrics
    load_series = engine_load.SGLANG
    error_rules = ()

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        served_name = engine_name(served_name)
        if request.operation is Operation.MEDIA:
            return media_request(request, served_name, self.passed)
        if request.operation in pooling.POOLING:
            return pooling.sglang_request(request, served_name)
        if request.operation in tokenize.TOKENS:
            return tokenize.sglang_request(request, served_name, self.passed)
        body, constraint = split_constraint(upstream_body(request, served_name))
        if not NOT_IN_SGLANG.isdisjoint(body):
            sglang_values(body, request.operation)
        body, ignored = select_fields(self.name, body, request.operation, "SGLang", self.passed)
        if constraint is not None:
            body |= sglang_fields(constraint)
        if request.operation is Operation.CHAT:
            rename_reasoning(body, "reasoning_content")
            if body.get("tool_choice") not in (None, "none", "auto"):
                body["tools"] = strict_tools(body["tools"], body["tool_choice"])
        if request.adapter:
            body["lora_path"] = request.adapter  # a name; MODEL:NAME as the model is split at any colon
        return upstream_request(request, body, ignored)

    def load(self, pages: Mapping[str, bytes], before: EngineLoad | None) -> EngineLoad | None:
        counted = super().load(pages, before)
        now = engine_load.of_sglang_loads(pages.get("/v1/loads", b""))
        if counted is None or now is None:
            return now or counted
        return replace(counted, running=now.running, waiting=now.waiting, kv_usage=now.kv_usage)


def engine_name(served_name: str) -> str:
    """SGLang takes what follows a colon for a LoRA adapter, so `qwen3:8b` is served under another name."""
    return served_name.replace(":", "-")
