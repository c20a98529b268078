"""Which fields of a request each engine reads, how Berth treats the others, and why.

vLLM and SGLang ignore a field that they do not know, TensorRT-LLM rejects it with 400. The response may depend on a
field that an engine ignores, so each field that any engine reads is sorted for every engine:

    read         it is sent unchanged
    spelled      the dialect sends the same in the engine's own format (`SPELLED`)
    ignored      it does not affect the response (`NO_EFFECT`): the header x-berth-ignored lists it
    routed       the response depends on it: the request is sent to another engine, or rejected if no engine reads it

Sources: the request models of vLLM 0.33.0 (0.32.0 has the same but `return_weight_versions`), SGLang 0.5.23 and
TensorRT-LLM 1.2.1, and OpenAI's own client.
"""

from collections.abc import Mapping
from typing import Any, Final

from berth.canonical import Json, Operation
from berth.dialects.base import UnsupportedError
from berth.plan import DialectName


def fields(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VLLM_BOTH: Final = fields(
    """
    add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params echo frequency_penalty ignore_eos
    include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs max_tokens
    min_p min_tokens mm_payload model n presence_penalty priority prompt_logprobs repetition_detection
    repetition_penalty request_id response_format return_mm_kwargs return_token_ids return_token_offsets
    return_tokens_as_token_ids return_weight_versions routed_experts_prompt_start seed session_id
    skip_special_tokens spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options
    structured_outputs temperature thinking_token_budget top_k top_p truncate_prompt_tokens truncation_side
    use_beam_search user vllm_xargs watermarking
    """
)
_VLLM_CHAT: Final = fields(
    """
    add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
    max_completion_tokens media_io_kwargs messages mm_processor_kwargs parallel_tool_calls reasoning_effort
    return_prompt_text tool_choice tools top_logprobs
    """
)
_VLLM_COMPLETION: Final = fields(
    """
    prompt prompt_embeds suffix
    """
)
_VLLM_EMBEDDING: Final = fields(
    """
    add_special_tokens cache_salt dimensions embed_dtype encoding_format endianness input mm_processor_kwargs model
    padding priority request_id truncate_prompt_tokens truncation_side use_activation user
    """
)
_SGLANG_BOTH: Final = fields(
    """
    bootstrap_host bootstrap_port bootstrap_room cache_salt custom_logit_processor custom_params data_parallel_rank
    disagg_prefill_dp_rank ebnf extra_key frequency_penalty ignore_eos images_config logit_bias logprobs lora_path
    max_tokens min_p min_tokens mm_processor_kwargs model n no_stop_trim presence_penalty priority regex
    repetition_penalty response_format return_cached_tokens_details return_hidden_states return_routed_experts
    return_spec_tokens_details return_token_ids rid routed_dp_rank routed_experts_start_len seed session_id
    session_params skip_special_tokens stop stop_regex stop_token_ids stream stream_options temperature top_k top_p
    user watermark
    """
)
_SGLANG_CHAT: Final = fields(
    """
    chat_template_kwargs continue_final_message input_ids max_completion_tokens max_dynamic_patch messages
    min_dynamic_patch parallel_tool_calls reasoning_effort return_flat_raw_output_top_logprobs
    return_flat_raw_top_logprobs_b64 return_input_ids_in_sglext return_meta_info return_output_ids_in_sglext
    return_prompt_token_ids return_sampling_mask sampling_logprobs_mode separate_reasoning stream_reasoning task
    thinking tool_choice tools top_logprobs use_audio_in_video video_config
    """
)
_SGLANG_COMPLETION: Final = fields(
    """
    best_of custom_labels echo json_schema prompt suffix
    """
)
_SGLANG_EMBEDDING: Final = fields(
    """
    dimensions embed_override_token_id embed_overrides encoding_format input lora_path model priority rid user
    """
)
_TRTLLM_BOTH: Final = fields(
    """
    add_special_tokens best_of early_stopping echo frequency_penalty ignore_eos include_stop_str_in_output
    length_penalty logit_bias logprobs lora_request max_tokens min_p min_tokens model n presence_penalty
    repetition_penalty response_format seed skip_special_tokens spaces_between_special_tokens stop stop_token_ids
    stream stream_options temperature top_k top_p top_p_min truncate_prompt_tokens use_beam_search user
    """
)
_TRTLLM_CHAT: Final = fields(
    """
    add_generation_prompt cache_salt chat_template chat_template_kwargs documents messages prompt_token_ids
    reasoning_effort tool_choice tools top_logprobs
    """
)
_TRTLLM_COMPLETION: Final = fields(
    """
    prompt
    """
)

READ: Final[Mapping[DialectName, Mapping[Operation, frozenset[str]]]] = {
    DialectName.VLLM: {
        Operation.CHAT: _VLLM_BOTH | _VLLM_CHAT,
        Operation.COMPLETION: _VLLM_BOTH | _VLLM_COMPLETION,
        Operation.EMBEDDING: _VLLM_EMBEDDING,
    },
    DialectName.SGLANG: {
        Operation.CHAT: _SGLANG_BOTH | _SGLANG_CHAT,
        Operation.COMPLETION: _SGLANG_BOTH | _SGLANG_COMPLETION,
        Operation.EMBEDDING: _SGLANG_EMBEDDING,
    },
    DialectName.TRTLLM: {
        Operation.CHAT: _TRTLLM_BOTH | _TRTLLM_CHAT,
        Operation.COMPLETION: _TRTLLM_BOTH | _TRTLLM_COMPLETION,
    },
}
# Fields of OpenAI's API that no engine reads.
OPENAI: Final = fields(
    """
    audio function_call functions metadata modalities moderation prediction prompt_cache_key prompt_cache_options
    prompt_cache_retention safety_identifier service_tier store verbosity web_search_options
    """
)
EVERY_FIELD: Final = OPENAI.union(*(names for operations in READ.values() for names in operations.values()))

_BOOKKEEPING = "OpenAI's bookkeeping; does not affect the response"
_RUNNING = "affects how a request runs, not its result"
_NAMING = "Berth assigns its own request ids"
_CACHING = "controls which prompts share a cache"
NO_EFFECT: Final[Mapping[str, str]] = {
    **dict.fromkeys(fields("metadata moderation safety_identifier service_tier store user"), _BOOKKEEPING),
    **dict.fromkeys(fields("prompt_cache_key prompt_cache_options prompt_cache_retention"), _CACHING),
    **dict.fromkeys(fields("cache_salt extra_key"), _CACHING),
    **dict.fromkeys(fields("bootstrap_host bootstrap_port bootstrap_room data_parallel_rank"), _RUNNING),
    **dict.fromkeys(
        fields("disagg_prefill_dp_rank routed_dp_rank priority stream_interval stream_reasoning"), _RUNNING
    ),
    **dict.fromkeys(fields("request_id rid session_id"), _NAMING),
    "custom_labels": "labels for the engine's own metrics",
    "include_obfuscation": "padding in OpenAI's streams",
    "prediction": "speeds up a response without changing it",
    "verbosity": "not supported by any open engine; use the prompt instead",
}
# Fields that the dialect sends in the engine's own format, or with an equivalent value.
_CONSTRAINTS = dict.fromkeys(
    fields("structured_outputs guided_json guided_regex guided_choice guided_grammar regex ebnf json_schema"),
    "structured output, in the engine's own format",
)
SPELLED: Final[Mapping[DialectName, Mapping[str, str]]] = {
    DialectName.VLLM: {
        **_CONSTRAINTS,
        "no_stop_trim": "sent as `include_stop_str_in_output`",
    },
    DialectName.SGLANG: {
        **_CONSTRAINTS,
        "add_generation_prompt": "implied by `continue_final_message`; otherwise routed",
        "include_stop_str_in_output": "sent as `no_stop_trim`",
        "tools": "`strict` is added to forced calls, which otherwise ignore the schema",
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
    "priority": 0,
    "separate_reasoning": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "stream_reasoning": True,
    "suffix": "",
    "top_p_min": 0.0,
}


def select_fields(dialect: DialectName, body: Json, operation: Operation, engine: str) -> tuple[Json, tuple[str, ...]]:
    """The body with the fields that the engine reads, and the names of ignored ones. A field that no engine is known to
    read counts as ignored, but is sent to engines that accept unknown fields, in case a later version reads it.
    UnsupportedError for a field that the response depends on.
    """
    read = READ[dialect].get(operation)
    if read is None or not body.keys() - read:
        return body, ()
    return keep_fields(read, body, engine, lenient=dialect is not DialectName.TRTLLM)


def keep_fields(read: frozenset[str], body: Json, engine: str, *, lenient: bool = True) -> tuple[Json, tuple[str, ...]]:
    """`select_fields` for an engine that reads these fields. `lenient`: it accepts unknown ones."""
    unread = body.keys() - read
    if not unread:
        return body, ()
    ignored = []
    kept = {name: value for name, value in body.items() if name not in unread}
    for name in sorted(unread):
        value = body[name]
        is_default = value == DEFAULTS[name] if name in DEFAULTS else value in (False, [], {}, "")
        if value is None or is_default:
            continue
        if name in EVERY_FIELD and name not in NO_EFFECT:
            raise UnsupportedError(f"{engine} does not support {name!r}", param=name)
        if name not in EVERY_FIELD and lenient:
            kept[name] = value
        ignored.append(name)
    return kept, tuple(ignored)


def table() -> str:
    """The Markdown table of docs/fields.md: every field that some engine does not read, and its treatment for each."""
    rows = []
    for name in sorted({*EVERY_FIELD, *_CONSTRAINTS}):
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
