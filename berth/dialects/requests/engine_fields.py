"""All fields of each engine's request models, as its sources list them: those of clients and all others.

Sources: vLLM 0.33.0 (0.32.0 has the same but `return_weight_versions`), SGLang 0.5.23 and TensorRT-LLM 1.2.1.
"""

from collections.abc import Mapping
from typing import Final

from berth.canonical import Operation
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
    add_special_tokens best_of disaggregated_params early_stopping echo frequency_penalty ignore_eos
    include_stop_str_in_output length_penalty logit_bias logprobs lora_request max_tokens min_p min_tokens model n
    presence_penalty repetition_penalty response_format seed skip_special_tokens spaces_between_special_tokens stop
    stop_token_ids stream stream_options temperature top_k top_p top_p_min truncate_prompt_tokens use_beam_search user
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

ENGINE_FIELDS: Final[Mapping[DialectName, Mapping[Operation, frozenset[str]]]] = {
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
