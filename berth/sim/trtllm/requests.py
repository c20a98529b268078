"""How TensorRT-LLM 1.2 parses requests: it rejects unknown fields, and answers every other failure with 400 too."""

from collections.abc import Mapping

from berth.sim import body_validation, field_limits
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_requests import (
    BaseParser,
    called_tool,
    chat_token_ids,
    functions,
    has_reasoning,
    parse_requested_tokens,
    plain_tool_call,
    prompts,
)
from berth.sim.dialect import EmbeddingRequest, Route
from berth.sim.generation import GenerationRequest, Tool
from berth.sim.structured_output import PatternError, SchemaError, response_schema, structured

_SAMPLING_FIELDS = (
    "model frequency_penalty logit_bias logprobs max_tokens max_completion_tokens n presence_penalty response_format "
    "seed stop stream stream_options temperature top_p user best_of use_beam_search top_k top_p_min min_p "
    "repetition_penalty length_penalty early_stopping stop_token_ids include_stop_str_in_output ignore_eos min_tokens "
    "skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens lora_request prompt_ignore_length echo "
    "add_special_tokens disaggregated_params"
)
_CHAT_FIELDS = (
    "messages prompt_token_ids top_logprobs tools tool_choice reasoning_effort add_generation_prompt documents "
    "chat_template chat_template_kwargs cache_salt"
)
_SAMPLING = frozenset(_SAMPLING_FIELDS.split())
_CHAT = _SAMPLING | frozenset(_CHAT_FIELDS.split())
_COMPLETION = _SAMPLING | {"prompt", "suffix", "detokenize"}
_STREAM_OPTIONS = frozenset(("include_usage", "continuous_usage_stats"))
_FUNCTION = frozenset(("name", "description", "parameters"))
_FORMATS = ("text", "json", "json_object", "json_schema", "regex", "ebnf", "structural_tag")
_EXTRA = "Extra inputs are not permitted"


class TrtllmParser(BaseParser):
    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        _check_known(body, _CHAT if route is Route.CHAT else _COMPLETION, ())
        body_validation.check_types(body)
        if body.get("model") is None:
            raise InvalidError("missing", ("model",), "Field required", body)
        if not field_limits.has_allowed_stream_options(body):
            raise RejectionError("Value error, stream_options can only be set if stream is true")
        _check_known(body.get("stream_options") or {}, _STREAM_OPTIONS, ("stream_options",))
        field_limits.check(field_limits.TRTLLM, body)
        n = body_validation.integer(body, "n", 1)
        greedy = body.get("temperature") == 0 or body.get("top_p") == 0 or body.get("top_k") == 1
        if n > 1 and greedy and not body.get("use_beam_search"):
            raise RejectionError(
                "Greedy decoding in the LLM API does not allow multiple returns. Please set to best_of=1, got "
                f"best_of={n}."
            )
        kind = body_validation.nested(body, "response_format", "type")
        if body.get("response_format") is not None and kind not in _FORMATS:
            allowed = ", ".join(f"'{name}'" for name in _FORMATS)
            raise InvalidError("literal_error", ("response_format", "type"), f"Input should be {allowed}", kind)
        return super().parse_generation(route, body, headers)

    def parse_embedding(self, body: Json) -> EmbeddingRequest:
        raise RejectionError("Not Found", status=404)  # it has no route for them

    def parse_chat(self, body: Json) -> GenerationRequest:
        messages = body_validation.messages(body)
        if not messages:
            raise RejectionError("list index out of range")
        for index, function in enumerate(functions(body)):
            _check_known(function, _FUNCTION, ("tools", index, "function"))
        choice = body.get("tool_choice")
        if isinstance(choice, str) and choice not in ("none", "auto"):
            raise InvalidError("literal_error", ("tool_choice",), "Input should be 'none' or 'auto'", choice)
        if choice not in (None, "none") and not body.get("tools"):
            raise RejectionError("When using `tool_choice`, `tools` must be set.")
        ids = chat_token_ids(self._setup, messages)
        last = messages[-1]
        max_tokens = self.max_tokens(body, (ids,), None)
        tool = called_tool(body, enforces=False)[0] if self._options.tools else None
        if tool is not None and tool.named:  # nothing forces or parses it: the whole text becomes its arguments
            tool = Tool(name=tool.name, arguments=plain_tool_call(tool), named=True, forced=True)
        return GenerationRequest(
            chat=True,
            prompts=(ids,),
            max_tokens=max_tokens,
            tool=tool,
            forced_text=self.forced_text(body),
            reasoning=has_reasoning(self._setup, body),
            echo=(body_validation.message_text(last),) if body.get("echo") and last["role"] == "assistant" else (),
            **self.fields(body, chat=True),
        )

    def parse_completion(self, body: Json) -> GenerationRequest:
        given = prompts(body)
        if given is None:
            raise InvalidError("missing", ("prompt",), "Field required", body)
        if body.get("suffix"):
            raise RejectionError("suffix is not supported")
        ids = tuple(self._setup.tokenizer.encode(one) if isinstance(one, str) else tuple(one) for one in given)
        outside = [token for one in ids for token in one if not 0 <= token < self._options.vocab_size]
        if outside:
            raise RejectionError(f"Token ID out of range: {outside[0]}")
        return self._completion_request(body, ids)

    def fields(self, body: Json, *, chat: bool) -> Json:
        """Stream options switch both kinds of usage on unless they are explicitly false."""
        options = body.get("stream_options")
        usage = options is not None and options.get("include_usage", True) is not False
        return {
            **super().fields(body, chat=chat),
            "model": str(body["model"]),
            "include_stop": bool(body.get("include_stop_str_in_output")),
            "usage": usage,
            "usage_per_chunk": usage
            and options is not None
            and options.get("continuous_usage_stats", True) is not False,
        }

    def max_tokens(self, body: Json, prompts: tuple[tuple[int, ...], ...], default: int | None) -> int:
        context, length = self._options.context, max(len(prompt) for prompt in prompts)
        _, requested = parse_requested_tokens(body, max(1, context - length) if default is None else default)
        if length + requested > context:
            raise RejectionError(
                f"The sum of prompt length ({length}), query length (0) and max_tokens ({requested}) should not exceed "
                f"max_seq_len ({context})"
            )
        return requested

    def forced_text(self, body: Json) -> str | None:
        requested = body.get("response_format")
        try:
            return structured(
                schema=response_schema(body),
                regex=body_validation.member(requested, "regex"),
                grammar=body_validation.member(requested, "ebnf"),
            )
        except (SchemaError, PatternError) as error:
            raise RejectionError(f"Failed to compile the guide: {error}") from error


def _check_known(value: Json, allowed: frozenset[str], place: tuple[str | int, ...]) -> None:
    for field, inner in value.items():
        if field not in allowed:
            raise InvalidError("extra_forbidden", (*place, field), _EXTRA, inner)
