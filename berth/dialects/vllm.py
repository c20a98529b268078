"""vLLM's spelling of OpenAI's API. Checked against the responses of 0.33.0."""

from berth.canonical import CHAT, EMBEDDING, MEDIA, InferenceRequest, Json, UpstreamRequest
from berth.dialects import engine_load, pooling, tokenize
from berth.dialects.answers import upstream_body, upstream_request
from berth.dialects.choices import rename_reasoning
from berth.dialects.media import media_request, with_usage_field
from berth.dialects.openai import METRICS_PATH, OpenaiDialect
from berth.dialects.requests.fields import select_fields
from berth.dialects.requests.forced_calls import strict_tools
from berth.dialects.requests.structured_output import split_constraint
from berth.dialects.requests.values import NOT_IN_VLLM, vllm_sampling
from berth.plan import DialectName


class VllmDialect(OpenaiDialect):
    name = DialectName.VLLM
    honors_n = True
    continues_chat = True
    continues_completion = True
    fragile = False
    needs_uuid = False
    health_paths = ("/health",)
    health_timeout_s = 5.0
    load_paths = (METRICS_PATH,)
    load_series = engine_load.VLLM
    error_rules = ()

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        served_name = request.adapter or served_name
        if request.operation is MEDIA:
            return with_usage_field(request, media_request(request, served_name, self.passed))
        if request.operation in pooling.POOLING:
            return pooling.vllm_request(request, served_name)
        if request.operation in tokenize.TOKENS:
            return tokenize.vllm_request(request, served_name, self.passed)
        body: Json
        body, constraint = split_constraint(upstream_body(request, served_name))
        if body.pop("no_stop_trim", None):
            body["include_stop_str_in_output"] = True
        body, ignored = select_fields(self.name, body, request.operation, "vLLM", self.passed)
        if constraint is not None:
            body["structured_outputs"] = {**constraint.options, constraint.kind: constraint.value}
        if request.operation is not EMBEDDING and not NOT_IN_VLLM.isdisjoint(body):
            vllm_sampling(body)
        if request.operation is CHAT:
            rename_reasoning(body, "reasoning")
            if body.get("tool_choice") not in (None, "none", "auto"):
                body["tools"] = strict_tools(body["tools"], body["tool_choice"])
            if body.get("continue_final_message"):
                body.setdefault("add_generation_prompt", False)  # vLLM rejects its own default, True, with it
        return upstream_request(request, body, ignored)
