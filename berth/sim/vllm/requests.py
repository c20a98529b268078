"""How vLLM parses requests: names, limits, and the words of every rejection as recorded of vLLM 0.32.0."""

from collections.abc import Mapping
from dataclasses import replace

from berth.sim import body_validation, field_limits
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_requests import (
    BaseParser,
    called_tool,
    chat_token_ids,
    chosen_tool_name,
    functions,
    has_reasoning,
    parse_requested_tokens,
    plain_tool_call,
    prompts,
    top_logprobs,
)
from berth.sim.dialect import EmbeddingRequest, Route
from berth.sim.generation import GenerationRequest
from berth.sim.structured_output import PatternError, SchemaError, response_schema, structured

_CHARACTERS_PER_TOKEN = 18  # a prompt longer than this times the context is rejected before tokenization
_MAX_TOP_LOGPROBS = 20
_MAX_STOP_STRINGS = 4
_NOT_NULL = (
    *("add_generation_prompt", "continue_final_message", "echo", "ignore_eos", "include_reasoning"),
    *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "use_beam_search"),
)
_SEEDS = 1 << 63
_USER_CONTENT = "ChatCompletionDeveloperMessageParam"  # the first of the message types that are tried


class VllmParser(BaseParser):
    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        if body.get("tools") == []:
            message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
            raise RejectionError(f"{message} (parameter=tools)", param="tools")
        for name in _NOT_NULL:
            if name in body and body[name] is None:
                raise InvalidError("bool_type", (name,), "Input should be a valid boolean", None)
        seed = body.get("seed")
        if isinstance(seed, int) and not -_SEEDS <= seed < _SEEDS:
            kind, bound = ("less", _SEEDS - 1) if seed > 0 else ("greater", -_SEEDS)
            raise InvalidError(
                f"{kind}_than_equal", ("seed",), f"Input should be {kind} than or equal to {bound}", seed
            )
        if not field_limits.has_allowed_stop_count(body, _MAX_STOP_STRINGS):
            raise InvalidError("string_type", ("stop",), "Input should be a valid string", body["stop"], count=2)
        request = super().parse_generation(route, body, headers)
        request_id = body.get("request_id") or headers.get("x-request-id")
        return replace(request, request_id=str(request_id)) if request_id else request

    def parse_embedding(self, body: Json) -> EmbeddingRequest:
        body_validation.check_types(body)
        if self._unknown(body):
            raise RejectionError(f"The model `{body['model']}` does not exist.", status=404)
        if body_validation.integer(body, "dimensions", 0):
            raise RejectionError(
                f"Model '{self._options.name}' does not support Matryoshka embeddings; dimensions must be unset "
                f"(received {body['dimensions']})."
            )
        if "messages" in body:
            given = [chat_token_ids(self._setup, body_validation.messages(body))]
        elif body.get("input") == "":
            raise RejectionError("The decoder prompt cannot be empty")
        else:
            given = [self.prompt_ids(one) for one in prompts({"prompt": body.get("input")}) or ()]
        if not given:
            raise RejectionError("You must pass at least one prompt")
        inputs = tuple(self._truncate(body, one) for one in given)
        return EmbeddingRequest(
            model=self._options.response_model(body.get("model")),
            inputs=inputs,
            base64=body.get("encoding_format") == "base64",
        )

    def check_model(self, body: Json) -> None:
        """RejectionError for an unknown model. A request without one is accepted."""
        if self._unknown(body):
            names = self._options.names
            aliases = f" Valid aliases: {', '.join(names)}." if len(names) > 1 else ""
            raise RejectionError(f"The model `{body['model']}` does not exist.{aliases}", status=404, param="model")

    def prompt_ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            most = _CHARACTERS_PER_TOKEN * self._options.context
            if len(prompt) > most:
                self._too_long(f"{len(prompt)} characters (more than {most} characters", "input_text", len(prompt))
            return self._setup.tokenizer.encode(prompt)
        for token in prompt:
            if not 0 <= token < self._options.vocab_size:
                raise RejectionError(f"Token id {token} is out of vocabulary")
        return tuple(prompt)

    def parse_chat(self, body: Json) -> GenerationRequest:
        messages = body_validation.messages(body)
        for index, message in enumerate(messages):
            field_limits.check_message_content(message, ("messages", index, _USER_CONTENT, "content"), 19)
        field_limits.check_response_format(body, ("response_format", "type"))
        self.check_model(body)
        self._check_values(body, body)
        self._check_chat(body, messages)
        continues = bool(body.get("continue_final_message"))
        given = body_validation.message_text(messages[-1]) if continues else ""
        ids = self._truncate(body, chat_token_ids(self._setup, messages, continues=continues))
        tool, allowed = called_tool(body)
        if allowed or not body.get("tools"):
            forced_text = self.forced_text(body)
        else:  # the model calls a tool all the same, and nothing parses it
            unparsed, _ = called_tool({**body, "tool_choice": None})
            forced_text = None if unparsed is None else plain_tool_call(unparsed)
        budget = body.get("thinking_token_budget")
        return GenerationRequest(
            chat=True,
            prompts=(ids,),
            max_tokens=self.max_tokens(body, (ids,), None),
            tool=tool,
            forced_text=forced_text,
            reasoning=has_reasoning(self._setup, body),
            hide_reasoning=body.get("include_reasoning") is False,
            max_reasoning_tokens=None if budget is None else max(0, int(budget)),
            continues=(given,),
            echo=(given,) if body.get("echo") else (),
            prompt_logprobs=1 if body.get("echo") else body.get("prompt_logprobs"),
            **self.fields(body, chat=True),
        )

    def parse_completion(self, body: Json) -> GenerationRequest:
        self.check_model(body)
        given = prompts(body)
        if given is None:
            message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
            raise RejectionError(message, param="prompt")
        if body.get("suffix") is not None:
            raise RejectionError("suffix is only supported for models with FIM completion rendering", param="suffix")
        echo = bool(body.get("echo"))
        self._check_values(body, {**body, "max_tokens": None} if echo else body)
        self._check_stream_options(body)
        tops = top_logprobs(body, chat=False)
        self._check_tops(tops or 0)
        ids = tuple(self._truncate(body, self.prompt_ids(one)) for one in given)
        prompt_logprobs = 1 if echo and tops is not None else body.get("prompt_logprobs")
        return self._completion_request(body, ids, prompt_logprobs=prompt_logprobs)

    def fields(self, body: Json, *, chat: bool) -> Json:
        usage = bool(body.get("stream")) and bool(body_validation.nested(body, "stream_options", "include_usage"))
        return {
            **super().fields(body, chat=chat),
            "model": self._options.response_model(body.get("model")),
            "include_stop": bool(body.get("include_stop_str_in_output")),
            "usage": usage,
            "usage_per_chunk": usage and bool(body_validation.nested(body, "stream_options", "continuous_usage_stats")),
            "return_token_ids": bool(body.get("return_token_ids")),
        }

    def _check_values(self, body: Json, limited: Json) -> None:
        field_limits.check(field_limits.VLLM, limited)
        if "" in (body.get("stop"), *(body.get("stop") or ())):
            raise RejectionError("stop cannot contain an empty string.")
        if "" in (body.get("bad_words") or ()):
            raise RejectionError(f"bad_words cannot contain an empty string. Got bad_words={body['bad_words']}")
        n, most = (
            body_validation.integer(body, "n", 1),
            limited.get("max_tokens") or limited.get("max_completion_tokens"),
        )
        if n > 1 and body_validation.number(body, "temperature", 1) == 0 and not body.get("use_beam_search"):
            raise RejectionError(f"n must be 1 when using greedy sampling, got {n}.")
        least = body_validation.integer(body, "min_tokens", 0)
        if most is not None and least > most:
            raise RejectionError(f"min_tokens must be less than or equal to max_tokens={most}, got {least}.")

    def _check_chat(self, body: Json, messages: list[Json]) -> None:
        self._check_stream_options(body)
        self._check_tools(body)
        if not messages:
            raise RejectionError("Cannot apply chat template to an empty conversation. Provide at least one message.")
        if body.get("chat_template"):
            raise RejectionError(
                "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
                "with untrusted chat template."
            )
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise RejectionError("continue_final_message and add_generation_prompt are not compatible.")
        if any(part not in ("text", "refusal") for message in messages for part in body_validation.part_types(message)):
            raise RejectionError(f"{self._options.name} is not a multimodal model")
        self._check_tops(body_validation.integer(body, "top_logprobs", 0))
        if body.get("top_logprobs") and not body.get("logprobs"):
            message = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)"
            raise RejectionError(message, param="top_logprobs")
        ids = body_validation.logit_bias_ids(body)
        outside = [token for token in ids if not 0 <= token < self._options.vocab_size]
        if outside:
            raise RejectionError(
                f"token_id(s) {outside} in logit_bias contain out-of-vocab token ids. Vocabulary size: "
                f"{self._options.vocab_size} (parameter=logit_bias, value={outside})",
                param="logit_bias",
            )

    def _check_stream_options(self, body: Json) -> None:
        if not field_limits.has_allowed_stream_options(body):
            message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
            raise RejectionError(message, param="stream_options")

    def _check_tools(self, body: Json) -> None:
        choice = body.get("tool_choice")
        names = [function["name"] for function in functions(body)]
        if choice not in (None, "none") and not names:
            message = "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)"
            raise RejectionError(message, param="tool_choice")
        if chosen_tool_name(body) is not None and chosen_tool_name(body) not in names:
            message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
            raise RejectionError(f"{message} (parameter=tool_choice)", param="tool_choice")
        if not names or self._options.tools or choice == "none":
            return
        if choice in (None, "auto"):
            raise RejectionError(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            )
        raise RejectionError('tool_choice="required" requires --tool-call-parser to be set')

    def _check_tops(self, tops: int) -> None:
        if tops > _MAX_TOP_LOGPROBS:
            raise RejectionError(
                f"Requested sample logprobs of {tops}, which is greater than max allowed: {_MAX_TOP_LOGPROBS} "
                f"(parameter=logprobs, value={tops})",
                param="logprobs",
            )

    def _unknown(self, body: Json) -> bool:
        return body.get("model") not in (None, *self._options.names, *self._options.adapters)

    def _truncate(self, body: Json, ids: tuple[int, ...]) -> tuple[int, ...]:
        limit = body_validation.integer(body, "truncate_prompt_tokens", 0)
        ids = ids[-limit:] if limit > 0 else ids
        if len(ids) >= self._options.context:
            least = self._options.context + 1
            self._too_long(f"at least {least} input tokens", "input_tokens", least)
        return ids

    def _too_long(self, what: str, param: str, value: int) -> None:
        context = self._options.context
        why = "which exceeds this limit even without any output tokens"
        if param == "input_text":
            why = f"which is the upper bound for {context} input tokens)"
        raise RejectionError(
            f"This model's maximum context length is {context} tokens. However, your prompt contains {what}, {why}. "
            f"Please reduce the length of the input prompt. (parameter={param}, value={value})",
            param=param,
        )

    def max_tokens(self, body: Json, prompts: tuple[tuple[int, ...], ...], default: int | None) -> int:
        context = self._options.context
        rest = context - max(len(prompt) for prompt in prompts)
        field, requested = parse_requested_tokens(body, rest if default is None else default)
        if requested > context:
            raise RejectionError(
                f"{field}={requested} cannot be greater than max_model_len={context}. Please request fewer output "
                f"tokens. (parameter={field}, value={requested})",
                param=field,
            )
        return min(requested, rest)

    def forced_text(self, body: Json) -> str | None:
        outputs = body.get("structured_outputs") or {}
        schema = response_schema(body) if outputs.get("json") is None else outputs["json"]
        try:
            return structured(
                schema={"type": "object"} if schema is None and outputs.get("json_object") else schema,
                choice=outputs.get("choice"),
                regex=outputs.get("regex"),
                grammar=outputs.get("grammar"),
            )
        except SchemaError as error:
            raise RejectionError(f"Grammar error: Invalid type: {error.kind}") from error
        except PatternError as error:
            raise RejectionError(f"Grammar error: invalid regex: {error}") from error
