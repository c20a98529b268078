"""Requests of Hugging Face's Text Generation Inference (TGI) as completions."""

from typing import Any, Final

from berth.apis.base import Headers
from berth.apis.model_header import model_name
from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    POSITIVE,
    TEXT,
    Rule,
    check_fields,
    formatted,
    integer,
    is_number,
    number,
    token_limit,
)
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

MAX_NEW_TOKENS: Final = 1024  # TGI's default
_PROBABILITY: Final = Rule(
    holds=lambda value: is_number(value) and 0 < value <= 1, expected="a number greater than 0 and at most 1"
)
_GRAMMARS: Final = ("json", "regex", "json_schema")
RULES: Final = {"inputs": TEXT, "model": TEXT, "parameters": OBJECT, "stream": BOOLEAN}
PARAMETERS: Final[dict[str, Rule]] = {
    "adapter_id": TEXT,
    "best_of": integer(1),
    "decoder_input_details": BOOLEAN,
    "details": BOOLEAN,
    "do_sample": BOOLEAN,
    "frequency_penalty": number(-2.0, 2.0),
    "grammar": Rule(
        holds=lambda value: (
            isinstance(value, dict) and value.get("type") in _GRAMMARS and value.get("value") is not None
        ),
        expected="an object with a 'type' (json, regex or json_schema) and a 'value'",
    ),
    "max_new_tokens": token_limit(1),
    "repetition_penalty": POSITIVE,
    "return_full_text": BOOLEAN,
    "seed": integer(0),
    "stop": Rule(
        holds=lambda value: isinstance(value, list) and set(map(type, value)) <= {str}, expected="a list of strings"
    ),
    "temperature": POSITIVE,
    "top_k": integer(1),
    "top_n_tokens": integer(0),
    "top_p": _PROBABILITY,
    "truncate": integer(1),
    "typical_p": _PROBABILITY,
    "watermark": BOOLEAN,
}
_NAMES: Final = {
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
    "top_k": "top_k",
    "top_p": "top_p",
    "truncate": "truncate_prompt_tokens",
}
# Parameters that engines do not support: the values without effect, which are accepted, and what to do instead.
_UNSUPPORTED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "adapter_id": ((), "request the adapter by its model name"),
    "best_of": ((1,), "engines return only one sequence"),
    "decoder_input_details": ((False,), "engines do not return the tokens of a prompt in this form"),
    "top_n_tokens": ((0,), "use 'logprobs' in /v1/completions"),
    "typical_p": ((1, 1.0), "engines do not support it, use 'top_p', or 'min_p' in /v1/completions"),
    "watermark": ((False,), "engines do not support TGI's watermarks"),
}


def completion(document: Json, headers: Headers, *, stream: bool) -> InferenceRequest:
    """InvalidRequestError for an invalid request, and for one that no engine supports."""
    check_fields(document, RULES, required=("inputs",))
    parameters: Json = document.get("parameters") or {}
    check_fields(parameters, PARAMETERS, required=())
    for name, (harmless, advice) in _UNSUPPORTED.items():
        value = parameters.get(name)
        if value is not None and value not in harmless:
            raise InvalidRequestError(f"{name!r} must not be {formatted(value)}: {advice}.", param=name)
    name = model_name(document, headers)
    body = {"model": name, "prompt": document["inputs"], **_sampling(parameters), **_constraint(parameters)}
    if parameters.get("details"):
        body["logprobs"] = 1
    if stream:
        body["stream"] = True
    return InferenceRequest(
        operation=Operation.COMPLETION,
        model=name,
        body=body,
        stream=stream,
        include_usage=stream,
        original={"inputs": document["inputs"], **parameters},
    )


def _sampling(parameters: Json) -> Json:
    """Greedy, unless a parameter requests sampling."""
    given = {name: value for name, value in parameters.items() if value is not None}
    body: Json = {"max_tokens": given.get("max_new_tokens", MAX_NEW_TOKENS)}
    body |= {theirs: given[name] for name, theirs in _NAMES.items() if name in given}
    if stop := given.get("stop"):
        body["stop"] = stop
    samples = (
        given.get("do_sample") or given.get("temperature", 1) != 1 or "top_k" in given or given.get("top_p", 1) != 1
    )
    body["temperature"] = given.get("temperature", 1.0) if samples else 0.0
    return body


def _constraint(parameters: Json) -> Json:
    grammar = parameters.get("grammar")
    if not grammar:
        return {}
    value = grammar["value"]
    if grammar["type"] == "regex":
        if not isinstance(value, str):
            raise InvalidRequestError(
                f"The regex in 'grammar' must be a string, not {formatted(value)}.", param="grammar"
            )
        return {"structured_outputs": {"regex": value}}
    schema = value.get("schema", value) if grammar["type"] == "json_schema" and isinstance(value, dict) else value
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            f"The schema in 'grammar' must be an object, not {formatted(schema)}.", param="grammar"
        )
    return {"structured_outputs": {"json": schema}}
