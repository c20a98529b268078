"""Tokenize and detokenize: the request to each engine, and the reading of its response.

The tokens of a prompt depend on `PROMPT_FIELDS`; all other fields concern the generation. An engine that can only
generate gets a request for one token (`count_request`): its usage has the number of the prompt's tokens.
"""

from typing import Final

from msgspec.structs import replace

from berth import json_text
from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, UpstreamRequest, Usage
from berth.dialects.base import UnsupportedError
from berth.dialects.choices import read_usage, rename_reasoning, token_count
from berth.dialects.requests.fields import without_control
from berth.dialects.requests.turns import in_order

TOKENS: Final = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})
PROMPT_FIELDS: Final = frozenset(
    {
        *("add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs"),
        *("continue_final_message", "documents", "media_io_kwargs", "messages", "mm_processor_kwargs", "prompt"),
        *("reasoning_effort", "tool_choice", "tools"),
    }
)
# Fields of the canonical request only: the response must have the ids of the tokens, or their texts.
NEED_IDS: Final = "return_token_ids"
NEED_TEXTS: Final = "return_token_strs"


def vllm_request(request: InferenceRequest, served_name: str, passed: frozenset[str]) -> UpstreamRequest:
    """/tokenize of vLLM ignores `documents` and `reasoning_effort`, which its chat passes to the template."""
    if request.operation is Operation.DETOKENIZE:
        return _detokenize(request, served_name, "/detokenize")
    body, ignored = without_control(_prompt(request.body), passed)
    rename_reasoning(body, "reasoning")
    given: Json = {name: body.pop(name) for name in ("documents", "reasoning_effort") if name in body}
    body.pop("tool_choice", None)
    options = body.get("chat_template_kwargs") or {}
    if "reasoning_effort" in given:
        given["enable_thinking"] = options.get("enable_thinking", given["reasoning_effort"] != "none")
    if given:
        body["chat_template_kwargs"] = {**options, **given}
    if body.get("continue_final_message"):
        body.setdefault("add_generation_prompt", False)
    if request.body.get(NEED_TEXTS):
        body[NEED_TEXTS] = True
    return UpstreamRequest(path="/tokenize", body=json_text.dumps({**body, "model": served_name}), ignored=ignored)


def sglang_request(request: InferenceRequest, served_name: str, passed: frozenset[str]) -> UpstreamRequest:
    """SGLang's /v1/tokenize renders messages as its chat does, unless `add_generation_prompt` is set."""
    if request.operation is Operation.DETOKENIZE:
        return _detokenize(request, served_name, "/v1/detokenize", skip_special_tokens=False)
    if request.body.get(NEED_TEXTS):
        raise UnsupportedError("SGLang does not return the texts of tokens", param=NEED_TEXTS)
    body, ignored = without_control(_prompt(request.body), passed)
    rename_reasoning(body, "reasoning_content")
    if body.get("add_generation_prompt") or body.get("continue_final_message"):
        body.pop("add_generation_prompt", None)
    return UpstreamRequest(path="/v1/tokenize", body=json_text.dumps({**body, "model": served_name}), ignored=ignored)


def count_request(request: InferenceRequest, engine: str) -> InferenceRequest:
    """A chat or completion of one token, whose usage has the number of the prompt's tokens. UnsupportedError where more
    than the number is requested.
    """
    if request.operation is Operation.DETOKENIZE:
        raise UnsupportedError(f"{engine} cannot detokenize", param="tokens")
    for name in (NEED_IDS, NEED_TEXTS):
        if request.body.get(name):
            raise UnsupportedError(f"{engine} returns how many tokens a prompt has, not which", param=name)
    body = {**_prompt(request.body), "max_tokens": 1}
    operation = Operation.CHAT if "messages" in body else Operation.COMPLETION
    return replace(request, operation=operation, body=body)


def read_tokens(document: Json) -> EngineResponse:
    """The response to TOKENIZE or to a `count_request`. KeyError or TypeError for anything else."""
    if "count" not in document:
        usage, count = read_usage(document["usage"]), document["usage"]["prompt_tokens"]
        response: Json = {"count": count, "tokens": None, "max_model_len": None}
    else:
        usage, count = Usage(), document["count"]
        response = {"count": count, "tokens": document.get("tokens"), "max_model_len": document.get("max_model_len")}
        if (texts := document.get("token_strs")) is not None:
            response["token_strs"] = texts
    if token_count(count) != count:
        raise TypeError(f"expected a number of tokens, got {count!r}")
    return EngineResponse(body=json_text.dumps(response), usage=usage)


def read_text(document: Json) -> EngineResponse:
    """The response to DETOKENIZE: vLLM has `prompt`, SGLang `text`. KeyError or TypeError for anything else."""
    text = document["prompt" if "prompt" in document else "text"]
    if not isinstance(text, str):
        raise TypeError(f"expected a string as text, got {text!r}")
    return EngineResponse(body=json_text.dumps({"prompt": text}))


def _prompt(body: Json) -> Json:
    prompt = {name: value for name, value in body.items() if name in PROMPT_FIELDS and value is not None}
    if "messages" in prompt:
        prompt["messages"] = in_order(prompt["messages"])
    return prompt


def _detokenize(request: InferenceRequest, served_name: str, path: str, **options: bool) -> UpstreamRequest:
    body = {"model": served_name, "tokens": request.body["tokens"], **options}
    return UpstreamRequest(path=path, body=json_text.dumps(body))
