"""llama.cpp's own server (`llama-server`). Checked against the responses of build 10434, models of GGUF."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import orjson
from msgspec.structs import replace

from berth import json_text
from berth.canonical import EngineResponse, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import engine_load, pooling, tokenize
from berth.dialects.attached.completion_logprobs import as_lists
from berth.dialects.attached.promises import forced_call
from berth.dialects.attached.server import COMMON_CHAT, COMMON_COMPLETION, AttachedDialect
from berth.dialects.base import UnsupportedError
from berth.dialects.openai import METRICS_PATH
from berth.dialects.requests.engine_fields import fields
from berth.dialects.requests.fields import without_control
from berth.dialects.requests.turns import in_order
from berth.plan import DialectName

# Its own fields, for clients that know it: they are passed on.
_OWN: Final = fields(
    """
    cache_prompt dry_allowed_length dry_base dry_multiplier dry_penalty_last_n dry_sequence_breakers dynatemp_exponent
    dynatemp_range mirostat mirostat_eta mirostat_tau n_keep reasoning_format repeat_last_n repeat_penalty samplers
    thinking_budget_tokens timings_per_token top_n_sigma typical_p xtc_probability xtc_threshold
    """
)
_BOTH: Final = _OWN | fields("ignore_eos logit_bias logprobs min_p n top_k")
_ANY_OBJECT: Final = {"type": "object"}
_MESSAGES: Final = fields("messages tools tool_choice chat_template_kwargs add_generation_prompt")


class LlamacppDialect(AttachedDialect):
    name = DialectName.LLAMACPP
    server = "llama.cpp"
    limit_fields = ("max_tokens",)
    needs_uuid = False
    health_paths = ("/health",)
    load_paths = (METRICS_PATH,)  # with --metrics only
    load_series = engine_load.LLAMACPP
    chat_fields = (
        _BOTH
        | COMMON_CHAT
        | fields(
            """
            add_generation_prompt chat_template_kwargs continue_final_message parallel_tool_calls reasoning_effort
            top_logprobs
            """
        )
    )
    completion_fields = _BOTH | COMMON_COMPLETION
    constraints = completion_constraints = frozenset({"json", "json_object", "choice", "grammar"})
    enforces_calls = True
    renames: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation in tokenize.TOKENS:
            return self.spell_tokens(request)
        if request.operation in {Operation.RERANK, Operation.SCORE}:
            query, documents = pooling.query_and_documents(request, self.server)
            rerank = {"model": served_name, "query": query, "documents": documents}
            return UpstreamRequest(path="/v1/rerank", body=json_text.dumps(rerank))
        return super().spell(request, served_name)

    def spell_chat(self, body: Json) -> Json:
        """It reads `tool_choice` as a word and takes an object for "auto": a named tool is the only one of those that
        it must call.
        """
        body = super().spell_chat(body)
        if name := forced_call(body):
            tools = [tool for tool in body.get("tools") or () if tool["function"]["name"] == name]
            if not tools:
                raise UnsupportedError(
                    f"{self.server} is to call {name!r}, which is not among 'tools'", param="tool_choice"
                )
            body |= {"tools": tools, "tool_choice": "required"}
        return body

    def constrain(self, kind: str, value: Any) -> Json:
        """It ignores `json_object` without a schema."""
        if kind == "grammar":
            return {"grammar": value}
        if kind == "choice":  # strings of GBNF have JSON's escapes
            return {"grammar": "root ::= " + " | ".join(json_text.dumps(str(one)).decode() for one in value)}
        return {"response_format": {"type": "json_object", "schema": value if kind == "json" else _ANY_OBJECT}}

    def constrain_completion(self, kind: str, value: Any) -> Json:
        """In completions it ignores `response_format`."""
        spelled = self.constrain(kind, value)
        return spelled if "grammar" in spelled else {"json_schema": spelled["response_format"]["schema"]}

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> EngineResponse | Failure:
        if status == 200 and request.operation in tokenize.TOKENS:
            body = _openai_tokens(body)
        response = super().answer(request, model, status, body)
        if isinstance(response, Failure) or request.operation is not Operation.COMPLETION:
            return response
        document = json_text.loads(response.body)
        changed = [as_lists(choice) for choice in document["choices"]]
        return replace(response, body=json_text.dumps(document)) if any(changed) else response

    def spell_tokens(self, request: InferenceRequest) -> UpstreamRequest:
        """/tokenize takes a text. A chat is counted by another path, which returns no ids."""
        body = request.body
        if request.operation is Operation.DETOKENIZE:
            return UpstreamRequest(path="/detokenize", body=json_text.dumps({"tokens": body["tokens"]}))
        if "messages" not in body:
            texts = bool(body.get(tokenize.NEED_TEXTS))
            special = body.get("add_special_tokens", True)
            content = {"content": body["prompt"], "add_special": special, "parse_special": True, "with_pieces": texts}
            return UpstreamRequest(path="/tokenize", body=json_text.dumps(content))
        for name in (tokenize.NEED_IDS, tokenize.NEED_TEXTS):
            if body.get(name):
                raise UnsupportedError(f"{self.server} returns how many tokens a chat has, not which", param=name)
        chat = {name: value for name, value in body.items() if name in _MESSAGES and value is not None}
        chat, _ignored = without_control({**chat, "messages": in_order(chat["messages"])}, self.passed)
        return UpstreamRequest(path="/v1/chat/completions/input_tokens", body=json_text.dumps(chat))


def _openai_tokens(body: bytes) -> bytes:
    """The response about tokens in the words of vLLM, which are Berth's; as it is where it is something else."""
    try:
        document = json_text.loads(body)
        if "content" in document:
            return json_text.dumps({"prompt": document["content"]})
        if "input_tokens" in document:
            return json_text.dumps({"count": document["input_tokens"]})
        tokens = document["tokens"]
        if not tokens or isinstance(tokens[0], int):
            return json_text.dumps({"count": len(tokens), "tokens": tokens})
        ids, pieces = [token["id"] for token in tokens], [token["piece"] for token in tokens]
        # a part of a character comes as its bytes
        texts = [one if isinstance(one, str) else bytes(one).decode(errors="replace") for one in pieces]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return body
    return json_text.dumps({"count": len(ids), "tokens": ids, "token_strs": texts})
