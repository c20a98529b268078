"""Which fields of a request each engine reads, how Berth treats the others, and why.

The request models of engines mix fields of three classes, and each field of `ENGINE_FIELDS` is in one of them:

    client       what the response is to be: `CLIENT`
    control      how the engine runs, whose request it is, what it loads: `CONTROL`. It is not sent, and the header
                 x-berth-ignored lists it
    restricted   input in an engine's own form, which may crash or stop it: `RESTRICTED`. The request is rejected

The operator allows fields of the last two classes, and fields that Berth does not know, per model: `pass_fields`.

vLLM and SGLang ignore a field that they do not know, TensorRT-LLM rejects it with 400. The response may depend on a
field that an engine ignores, so each client field that any engine reads is sorted for every engine:

    read         it is sent unchanged
    spelled      the dialect sends the same in the engine's own format (`SPELLED`)
    ignored      it does not affect the response (`NO_EFFECT`): the header x-berth-ignored lists it
    routed       the response depends on it: the request is sent to another engine, or rejected if no engine reads it
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from berth.canonical import Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.requests.engine_fields import ENGINE_FIELDS, fields
from berth.errors import InvalidRequestError
from berth.plan import DialectName

CLIENT: Final = fields(
    """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_salt chat_template_kwargs
    continue_final_message dimensions documents early_stopping ebnf echo embed_dtype encoding_format endianness
    extra_key frequency_penalty ignore_eos include_reasoning include_stop_str_in_output input json_schema
    length_penalty logit_bias logprob_token_ids logprobs max_completion_tokens max_tokens messages min_p min_tokens
    model n no_stop_trim padding parallel_tool_calls presence_penalty prompt prompt_logprobs prompt_token_ids
    reasoning_effort regex repetition_detection repetition_penalty response_format return_cached_tokens_details
    return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 return_hidden_states
    return_input_ids_in_sglext return_meta_info return_output_ids_in_sglext return_prompt_text
    return_prompt_token_ids return_routed_experts return_sampling_mask return_spec_tokens_details return_token_ids
    return_token_offsets return_tokens_as_token_ids return_weight_versions routed_experts_prompt_start
    routed_experts_start_len sampling_logprobs_mode seed separate_reasoning skip_special_tokens
    spaces_between_special_tokens stop stop_token_ids stream stream_options structured_outputs suffix task
    temperature thinking thinking_token_budget tool_choice tools top_k top_logprobs top_p top_p_min
    truncate_prompt_tokens truncation_side use_activation use_audio_in_video use_beam_search user
    """
)
_IDENTITY = "Berth assigns its own ids to requests and sessions"
_PLACEMENT = "where the engine runs the request, and where it transfers its cache"
_SCHEDULING = "how the engine schedules requests and groups frames; use the header x-priority"
_CODE = "code, templates or files that the engine would load"
_PREPARATION = "how the engine decodes media: sizes that a client could make arbitrarily large"
_OPERATION = "the operator's own choice"
CONTROL: Final[Mapping[str, str]] = {
    **dict.fromkeys(fields("request_id rid session_id session_params"), _IDENTITY),
    **dict.fromkeys(
        fields(
            "bootstrap_host bootstrap_port bootstrap_room data_parallel_rank disagg_prefill_dp_rank "
            "disaggregated_params ec_transfer_params kv_transfer_params routed_dp_rank"
        ),
        _PLACEMENT,
    ),
    **dict.fromkeys(fields("priority stream_interval stream_reasoning"), _SCHEDULING),
    **dict.fromkeys(
        fields("chat_template custom_logit_processor custom_params lora_path lora_request vllm_xargs"), _CODE
    ),
    **dict.fromkeys(
        fields(
            "images_config max_dynamic_patch media_io_kwargs min_dynamic_patch mm_payload mm_processor_kwargs "
            "return_mm_kwargs video_config"
        ),
        _PREPARATION,
    ),
    **dict.fromkeys(fields("custom_labels watermark watermarking"), _OPERATION),
}
_TENSORS = "tensors or token ids that the engine does not check"
RESTRICTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(fields("embed_override_token_id embed_overrides input_ids prompt_embeds"), _TENSORS),
    "stop_regex": "a pattern that the engine matches without a time limit",
}
# Of a server of unknown kind; also what other versions call them.
_LIKE_CONTROL: Final = re.compile(
    r"id_slot|lora|(?:.*_)?(?:rid|rank|request_id|xargs)|.*_rank_.*"
    r"|(?:bootstrap|conversation|disagg\w*|ec|kv|lora|session)_.*"
    r"|.*(?:_transfer_params|_io_kwargs|_processor_kwargs|logits?_processors?)"
)
# Arguments of the tokenizer's method that renders a template; SGLang and TensorRT-LLM pass all settings to it.
_NO_SETTINGS: Final = fields(
    """
    add_generation_prompt chat_template continue_final_message conversation documents max_length messages padding
    return_assistant_tokens_mask return_dict return_tensors tokenize tokenizer_kwargs tools truncation
    """
)

READ: Final[Mapping[DialectName, Mapping[Operation, frozenset[str]]]] = {
    dialect: {operation: names & CLIENT for operation, names in operations.items()}
    for dialect, operations in ENGINE_FIELDS.items()
}
# Fields of OpenAI's API that no engine reads.
OPENAI: Final = fields(
    """
    audio function_call functions metadata modalities moderation prediction prompt_cache_key prompt_cache_options
    prompt_cache_retention safety_identifier service_tier store verbosity web_search_options
    """
)
EVERY_FIELD: Final = OPENAI.union(*(names for reads in ENGINE_FIELDS.values() for names in reads.values()))

_BOOKKEEPING = "OpenAI's bookkeeping; does not affect the response"
_CACHING = "controls which prompts share a cache"
NO_EFFECT: Final[Mapping[str, str]] = {
    **dict.fromkeys(fields("metadata moderation safety_identifier service_tier store user"), _BOOKKEEPING),
    **dict.fromkeys(fields("prompt_cache_key prompt_cache_options prompt_cache_retention"), _CACHING),
    **dict.fromkeys(fields("cache_salt extra_key"), _CACHING),
    "include_obfuscation": "padding in OpenAI's streams",
    "prediction": "speeds up a response without changing it",
    "verbosity": "not supported by any open engine; use the prompt instead",
}
# Fields that the dialect sends in the engine's own format, or with an equivalent value.
_CONSTRAINTS = dict.fromkeys(
    fields(
        "structured_outputs guided_json guided_regex guided_choice guided_grammar regex ebnf json_schema grammar "
        "format response_schema responseSchema response_json_schema responseJsonSchema"
    ),
    "structured output, in the engine's own format",
)
_STRICT = "`strict` is added to tools that must be called, whose schema would be ignored otherwise"
SPELLED: Final[Mapping[DialectName, Mapping[str, str]]] = {
    DialectName.VLLM: {
        **_CONSTRAINTS,
        "no_stop_trim": "sent as `include_stop_str_in_output`",
        "tools": _STRICT,
    },
    DialectName.SGLANG: {
        **_CONSTRAINTS,
        "add_generation_prompt": "implied by `continue_final_message`; otherwise routed",
        "include_stop_str_in_output": "sent as `no_stop_trim`",
        "tools": _STRICT,
    },
    DialectName.TRTLLM: {
        **_CONSTRAINTS,
        "max_completion_tokens": "sent as `max_tokens`; both at once are rejected by the engine",
        "no_stop_trim": "sent as `include_stop_str_in_output`",
        "parallel_tool_calls": "for false, Berth forwards the first call only",
        "stream_options": "usage is always requested",
        "tool_choice": "`none` and `auto`; a forced call is routed, since the engine does not enforce it",
        "tools": "sent without `strict`, which the engine rejects",
    },
}
# What an engine does without the field: with these values it may be ignored.
DEFAULTS: Final[Mapping[str, Any]] = {
    "add_generation_prompt": True,
    "best_of": 1,
    "embed_dtype": "float32",
    "endianness": "native",
    "include_reasoning": True,
    "length_penalty": 1.0,
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "separate_reasoning": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "suffix": "",
    "top_p_min": 0.0,
    "web_search_options": None,  # {} asks for a search with the usual options
}


def select_fields(
    dialect: DialectName, body: Json, operation: Operation, engine: str, passed: frozenset[str] = frozenset()
) -> tuple[Json, tuple[str, ...]]:
    """The body with the fields that the engine reads, and the names of ignored ones; `passed`: what the operator
    allows besides. UnsupportedError for a field that the response depends on, InvalidRequestError for a restricted one.
    """
    read = READ[dialect].get(operation)
    if read is None:
        return keep_fields(frozenset(body), body, engine)
    if passed:  # what only other engines read is not sent to this one
        read |= passed - (EVERY_FIELD - ENGINE_FIELDS[dialect][operation])
    return keep_fields(read, body, engine, passed)


def keep_fields(
    read: frozenset[str], body: Json, engine: str, passed: frozenset[str] = frozenset()
) -> tuple[Json, tuple[str, ...]]:
    """`select_fields` for an engine that reads these fields."""
    unread = body.keys() - read
    if not unread and "chat_template_kwargs" not in body:
        return body, ()
    ignored = []
    kept = {name: value for name, value in body.items() if name not in unread}
    for name in sorted(unread):
        value = body[name]
        is_default = value == DEFAULTS[name] if name in DEFAULTS else value in (False, [], {}, "")
        if value is None or is_default:
            continue
        if name in RESTRICTED and name not in passed:
            raise _restricted(name)
        if name in EVERY_FIELD and name not in NO_EFFECT and name not in CONTROL:
            raise UnsupportedError(f"{engine} does not support {name!r}", param=name)
        ignored.append(name)
    return kept, (*ignored, *_drop_arguments(kept))


def without_control(body: Json, passed: frozenset[str]) -> tuple[Json, tuple[str, ...]]:
    """The same for a server of unknown kind, which gets all fields except those that control engines."""
    unknown = body.keys() - CLIENT - OPENAI - passed
    if not unknown and "chat_template_kwargs" not in body:
        return body, ()
    for name in sorted(unknown & RESTRICTED.keys()):
        if body[name] is not None:
            raise _restricted(name)
    control = sorted(name for name in unknown if name in CONTROL or _LIKE_CONTROL.fullmatch(name))
    kept = {name: value for name, value in body.items() if name not in control}
    return kept, (*(name for name in control if body[name] is not None), *_drop_arguments(kept))


def refuse_control(form: Json, passed: frozenset[str]) -> None:
    """InvalidRequestError for a form with such a field."""
    for name in form.keys() - CLIENT - passed:
        if name in CONTROL or _LIKE_CONTROL.fullmatch(name):
            raise InvalidRequestError(
                f"The form's field {name!r} is not allowed: it controls the engine. The operator can list it in "
                "'pass_fields' of the model.",
                param=name,
            )


def _restricted(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name!r} is not allowed: {RESTRICTED[name]}. The operator can list it in 'pass_fields' of the model.",
        param=name,
    )


def _drop_arguments(body: Json) -> tuple[str, ...]:
    """Replaces `chat_template_kwargs` with the template's own settings: no template, and no option of its renderer."""
    settings = body.get("chat_template_kwargs")
    if not isinstance(settings, dict) or _NO_SETTINGS.isdisjoint(settings):
        return ()
    body["chat_template_kwargs"] = {name: value for name, value in settings.items() if name not in _NO_SETTINGS}
    return tuple(f"chat_template_kwargs.{name}" for name in sorted(_NO_SETTINGS & settings.keys()))


def table() -> str:
    """The Markdown table of docs/fields.md: every client field that some engine does not read, and its treatment for
    each.
    """
    rows = []
    for name in sorted({*EVERY_FIELD, *_CONSTRAINTS} - CONTROL.keys() - RESTRICTED.keys()):
        cells = []
        otherwise = "ignored" if name in NO_EFFECT else "routed"
        elsewhere = {operation for reads in READ.values() for operation, names in reads.items() if name in names}
        for dialect, reads in READ.items():
            reading = [operation for operation, names in reads.items() if name in names]
            if name in SPELLED[dialect]:
                cells.append(SPELLED[dialect][name])
            elif not reading:
                cells.append(otherwise)
            elif elsewhere & reads.keys() <= set(reading):
                cells.append("read")
            else:
                cells.append(f"read in {' and '.join(reading)}, else {otherwise}")
        if set(cells) != {"read"}:
            rows.append(f"| `{name}` | {' | '.join(cells)} | {NO_EFFECT.get(name, '')} |")
    return "\n".join(["| field | vLLM | SGLang | TensorRT-LLM | |", "|---|---|---|---|---|", *rows]) + "\n"


def control_table() -> str:
    """The Markdown table of the fields that clients may not set."""
    rows = [f"| `{name}` | ignored | {CONTROL[name]} |" for name in sorted(CONTROL)]
    rows += [f"| `{name}` | rejected with 400 | {RESTRICTED[name]} |" for name in sorted(RESTRICTED)]
    return "\n".join(["| field | without `pass_fields` | |", "|---|---|---|", *rows]) + "\n"
