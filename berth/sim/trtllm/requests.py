"""How TensorRT-LLM 1.2 reads requests: any unknown field is refused, and every other failure is a 400 too."""

from collections.abc import Mapping
from typing import Any

from berth.sim import body_validation, field_limits
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_requests import called_tool, chat_token_ids, functions, has_reasoning, prompts, top_logprobs
from berth.sim.dialect import EmbeddingRequest, Route, Setup
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


class TrtllmParser:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:  # noqa: ARG002 - no header counts here
        _forbid(body, _CHAT if route is Route.CHAT else _COMPLETION, ())
        body_validation.check_types(body)
        if body.get("model") is None:
            raise InvalidError("missing", ("model",), "Field required", body)
        if not field_limits.has_allowed_stream_options(body):
            raise RejectionError("Value error, stream_options can only be set if stream is true")
        _forbid(body.get("stream_options") or {}, _STREAM_OPTIONS, ("stream_options",))
        field_limits.check(field_limits.TRTLLM, body)
        self._check_format(body)
        return self._chat(body) if route is Route.CHAT else self._completion(body)

    def parse_embedding(self, body: Json) -> EmbeddingRequest:  # noqa: ARG002 - the interface asks
        raise RejectionError("Not Found", status=404)  # it has no route for them

    def _chat(self, body: Json) -> GenerationRequest:
        messages = body_validation.messages(body)
        if not messages:
            raise RejectionError("list index out of range")
        self._check_tools(body)
        ids = chat_token_ids(self._setup, messages)
        last = messages[-1]
        tool = called_tool(body)[0] if self._options.tools else None
        return GenerationRequest(
            chat=True,
            prompts=(ids,),
            max_tokens=self._room(body, (ids,), None),
            tool=_unparsed(tool),
            forced_text=self._structured(body),
            reasoning=has_reasoning(self._setup, body),
            echo=(body_validation.message_text(last),) if body.get("echo") and last["role"] == "assistant" else (),
            **self._common(body, chat=True),
        )

    def _completion(self, body: Json) -> GenerationRequest:
        given = prompts(body)
        if given is None:
            raise InvalidError("missing", ("prompt",), "Field required", body)
        if body.get("suffix"):
            raise RejectionError("suffix is not supported")
        ids = tuple(self._setup.tokenizer.encode(one) if isinstance(one, str) else tuple(one) for one in given)
        outside = [token for one in ids for token in one if not 0 <= token < self._options.vocab_size]
        if outside:
            raise RejectionError(f"Token ID out of range: {outside[0]}")
        texts = tuple(self._setup.tokenizer.decode(one) for one in ids)
        return GenerationRequest(
            chat=False,
            prompts=ids,
            max_tokens=self._room(body, ids, 16),
            continues=texts,
            echo=texts if body.get("echo") else (),
            forced_text=self._structured(body),
            **self._common(body, chat=False),
        )

    def _common(self, body: Json, *, chat: bool) -> dict[str, Any]:
        """Stream options given at all switch both kinds of usage on, unless they say otherwise."""
        options = body.get("stream_options")
        usage = options is not None and options.get("include_usage", True) is not False
        return {
            "model": str(body["model"]),
            "n": body_validation.integer(body, "n", 1),
            "stop": body_validation.strings(body.get("stop")),
            "include_stop": bool(body.get("include_stop_str_in_output")),
            "ignore_eos": bool(body.get("ignore_eos")),
            "min_tokens": body_validation.integer(body, "min_tokens", 0),
            "stream": bool(body.get("stream")),
            "usage": usage,
            "usage_per_chunk": usage
            and options is not None
            and options.get("continuous_usage_stats", True) is not False,
            "top_logprobs": top_logprobs(body, chat=chat),
        }

    def _check_tools(self, body: Json) -> None:
        for index, function in enumerate(functions(body)):
            _forbid(function, _FUNCTION, ("tools", index, "function"))
        choice = body.get("tool_choice")
        if isinstance(choice, str) and choice not in ("none", "auto"):
            raise InvalidError("literal_error", ("tool_choice",), "Input should be 'none' or 'auto'", choice)
        if choice not in (None, "none") and not body.get("tools"):
            raise RejectionError("When using `tool_choice`, `tools` must be set.")

    def _check_format(self, body: Json) -> None:
        kind = body_validation.nested(body, "response_format", "type")
        if body.get("response_format") is not None and kind not in _FORMATS:
            allowed = ", ".join(f"'{name}'" for name in _FORMATS)
            raise InvalidError("literal_error", ("response_format", "type"), f"Input should be {allowed}", kind)

    def _room(self, body: Json, ids: tuple[tuple[int, ...], ...], default: int | None) -> int:
        field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
        context, length = self._options.context, max(len(one) for one in ids)
        requested = body_validation.integer(body, field, max(1, context - length) if default is None else default)
        if length + requested > context:
            raise RejectionError(
                f"The sum of prompt length ({length}), query length (0) and max_tokens ({requested}) should not exceed "
                f"max_seq_len ({context})"
            )
        return requested

    def _structured(self, body: Json) -> str | None:
        requested = body.get("response_format")
        try:
            return structured(
                schema=response_schema(body),
                regex=body_validation.member(requested, "regex"),
                grammar=body_validation.member(requested, "ebnf"),
            )
        except (SchemaError, PatternError) as error:
            raise RejectionError(f"Failed to compile the guide: {error}") from error


def _forbid(given: Json, allowed: frozenset[str], place: tuple[str | int, ...]) -> None:
    for field, value in given.items():
        if field not in allowed:
            raise InvalidError("extra_forbidden", (*place, field), _EXTRA, value)


def _unparsed(tool: Tool | None) -> Tool | None:
    """A tool chosen by name gets the model's whole text as its arguments: nothing forces or parses it."""
    if tool is None or not tool.named:
        return tool
    text = f'<tool_call>\n{{"name": "{tool.name}", "arguments": {tool.arguments}}}\n</tool_call>'
    return Tool(name=tool.name, arguments=text, named=True, forced=True)
