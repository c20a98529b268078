"""Tokenize and detokenize: how each engine is asked, and how its answer is read.

What a prompt's tokens depend on are `PROMPT_FIELDS`; all others of a request say what is to be answered. An engine that
only generates is asked for one token (`counting`): its usage tells how many tokens the prompt has.
"""

from dataclasses import replace
from typing import Any, Final

import orjson

from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, UpstreamRequest, Usage
from berth.dialects.base import UnsupportedError
from berth.dialects.stream_decoder import usage_in

TOKENS: Final = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})
PROMPT_FIELDS: Final = frozenset(
    {
        *("add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs"),
        *("continue_final_message", "documents", "media_io_kwargs", "messages", "mm_processor_kwargs", "prompt"),
        *("reasoning_effort", "tool_choice", "tools"),
    }
)
# Of the canonical request alone: the answer must have the ids of the tokens, or their texts.
NEED_IDS: Final = "return_token_ids"
NEED_TEXTS: Final = "return_token_strs"


def vllm_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """Of vLLM 0.32: /tokenize passes over `documents` and `reasoning_effort`, which its chat gives to the template."""
    if request.operation is Operation.DETOKENIZE:
        return _detokenize(request, served_name, "/detokenize")
    body = _prompt(request.body)
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
    return _asked("/tokenize", {**body, "model": served_name})


def sglang_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """Of SGLang 0.5.23: /v1/tokenize renders messages as its chat does, unless `add_generation_prompt` is there."""
    if request.operation is Operation.DETOKENIZE:
        return _detokenize(request, served_name, "/v1/detokenize", skip_special_tokens=False)
    if request.body.get(NEED_TEXTS):
        raise UnsupportedError("SGLang does not tell the texts of tokens", param=NEED_TEXTS)
    body = _prompt(request.body)
    if body.get("add_generation_prompt") or body.get("continue_final_message"):
        body.pop("add_generation_prompt", None)
    return _asked("/v1/tokenize", {**body, "model": served_name})


def counting(request: InferenceRequest, engine: str) -> InferenceRequest:
    """The chat or completion of one token that tells in its usage how long the prompt is. UnsupportedError where more
    than the number is wanted.
    """
    if request.operation is Operation.DETOKENIZE:
        raise UnsupportedError(f"{engine} cannot turn tokens into text", param="tokens")
    for name in (NEED_IDS, NEED_TEXTS):
        if request.body.get(name):
            raise UnsupportedError(f"{engine} tells how many tokens a prompt has, not which", param=name)
    body = {**_prompt(request.body), "max_tokens": 1}
    operation = Operation.CHAT if "messages" in body else Operation.COMPLETION
    return replace(request, operation=operation, body=body)


def read_tokens(document: Json) -> EngineResponse:
    """Of TOKENIZE, and of what `counting` asks. KeyError or TypeError for anything else."""
    if "count" not in document:
        usage = usage_in(document["usage"])
        return _told(document["usage"]["prompt_tokens"], {"tokens": None, "max_model_len": None}, usage)
    names = document.get("token_strs")
    rest = {"tokens": document.get("tokens"), "max_model_len": document.get("max_model_len")}
    return _told(document["count"], rest | ({"token_strs": names} if names is not None else {}), Usage())


def read_text(document: Json) -> EngineResponse:
    """Of DETOKENIZE: vLLM says `prompt`, SGLang `text`. KeyError or TypeError for anything else."""
    text = document["prompt" if "prompt" in document else "text"]
    if not isinstance(text, str):
        raise TypeError(f"the text of the tokens is {text!r}")
    return EngineResponse(body=orjson.dumps({"prompt": text}))


def _told(count: Any, rest: Json, usage: Usage) -> EngineResponse:
    if not isinstance(count, int):
        raise TypeError(f"the number of tokens is {count!r}")
    return EngineResponse(body=orjson.dumps({"count": count, **rest}), usage=usage)


def _prompt(body: Json) -> Json:
    return {name: value for name, value in body.items() if name in PROMPT_FIELDS and value is not None}


def _detokenize(request: InferenceRequest, served_name: str, path: str, **options: bool) -> UpstreamRequest:
    return _asked(path, {"model": served_name, "tokens": request.body["tokens"], **options})


def _asked(path: str, body: Json) -> UpstreamRequest:
    return UpstreamRequest(path=path, body=orjson.dumps(body))
