"""How SGLang 0.5 parses requests: it accepts any model name, and some requests crash it."""

from collections.abc import Mapping

from berth.plan import Task
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
    prompts,
)
from berth.sim.dialect import CrashError, EmbeddingRequest, Route
from berth.sim.generation import GenerationRequest
from berth.sim.structured_output import PatternError, SchemaError, response_schema, structured

_MAX_STOP_STRINGS = 32
_ROLES = ("system", "assistant", "tool", "function", "developer", "user", "latest_reminder")
_PARTS = ("text", "image_url", "video_url", "audio_url", "input_audio", "thinking", "refusal")
_MESSAGE = "function-after[validate_thinking_parts_role(), ChatCompletionMessageGenericParam]"


class SglangParser(BaseParser):
    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        request = super().parse_generation(route, body, headers)
        if self._options.task is not Task.GENERATE:
            raise CrashError("AttributeError: 'NoneType' object has no attribute 'next_token_ids'")
        if (request.top_logprobs or 0) > self._options.vocab_size:
            raise CrashError("RuntimeError: selected index k out of range")
        return request

    def parse_embedding(self, body: Json) -> EmbeddingRequest:
        body_validation.check_types(body)
        self._check_lora(body)
        if self._options.task is Task.GENERATE:
            raise RejectionError(
                "This model does not appear to be an embedding model by default. Please add `--is-embedding` when "
                "launching the server or try another model."
            )
        given = prompts({"prompt": body.get("input")})
        if given is None or "" in given:
            raise RejectionError("Input cannot be empty")
        if body_validation.integer(body, "dimensions", 0):
            raise RejectionError(
                f"Model '{self.path}' does not support matryoshka representation, changing output dimensions will lead "
                "to poor results."
            )
        inputs = tuple(self._prompt_ids(one) for one in given)
        for one in inputs:
            self._check_length(one, 0)
        return EmbeddingRequest(model=self.path, inputs=inputs, base64=body.get("encoding_format") == "base64")

    @property
    def path(self) -> str:
        """The path of the model: `model` in responses with embeddings."""
        return f"models/{self._options.name}"

    def parse_chat(self, body: Json) -> GenerationRequest:
        messages = body_validation.messages(body)
        for index, message in enumerate(messages):
            _check_message(index, message)
        field_limits.check_response_format(body, ("response_format", "ResponseFormat", "type"))
        self._check_chat(body, messages)
        continues = bool(body.get("continue_final_message")) and messages[-1]["role"] == "assistant"
        ids = chat_token_ids(self._setup, messages, continues=continues)
        return GenerationRequest(
            chat=True,
            prompts=(ids,),
            max_tokens=self.max_tokens(body, (ids,), None),
            tool=called_tool(body)[0] if self._options.tools else None,
            forced_text=self.forced_text(body),
            reasoning=has_reasoning(self._setup, body),
            continues=(body_validation.message_text(messages[-1]) if continues else "",),
            **self.fields(body, chat=True),
        )

    def parse_completion(self, body: Json) -> GenerationRequest:
        if "prompt" not in body:
            raise InvalidError("missing", ("prompt",), "Field required", body)
        if body.get("max_tokens") is not None and body_validation.integer(body, "max_tokens", 0) <= 0:
            cause = {"error": ValueError("max_tokens must be positive")}
            message = "Value error, max_tokens must be positive"
            raise InvalidError("value_error", ("max_tokens",), message, body["max_tokens"], context=cause)
        given = prompts(body)
        if given is None:
            raise RejectionError("Prompt cannot be empty")
        self._check_values(body)
        return self._completion_request(body, tuple(self._prompt_ids(one) for one in given))

    def fields(self, body: Json, *, chat: bool) -> Json:
        stream = bool(body.get("stream"))
        model = body.get("model")
        return {
            **super().fields(body, chat=chat),
            "model": "default" if model is None else str(model),
            "include_stop": bool(body.get("no_stop_trim")),
            "usage": stream and bool(body_validation.nested(body, "stream_options", "include_usage")),
            "usage_per_chunk": stream
            and bool(body_validation.nested(body, "stream_options", "continuous_usage_stats")),
            "request_id": str(body.get("rid") or ""),
        }

    def _check_chat(self, body: Json, messages: list[Json]) -> None:
        if not messages:
            raise RejectionError("Messages cannot be empty.")
        names = [function["name"] for function in functions(body)]
        if body.get("tool_choice") == "required" and not names:
            raise RejectionError("Tools cannot be empty if tool choice is set to required.")
        name = chosen_tool_name(body)
        if name is not None and name not in names:
            raise RejectionError(f"Tool '{name}' not found in tools list.")
        for part in (part for message in messages for part in body_validation.part_types(message)):
            if part.endswith(("_url", "_audio")):
                raise RejectionError(f"Model only supports text input; received unsupported content type '{part}'.")
        if body_validation.nested(body, "response_format", "type") == "json_schema" and response_schema(body) is None:
            raise RejectionError("schema_ is required for json_schema response format request.")
        self._check_values(body)

    def _check_values(self, body: Json) -> None:
        self._check_lora(body)
        field_limits.check(field_limits.SGLANG, body)
        count = len(body_validation.strings(body.get("stop")))
        if count > _MAX_STOP_STRINGS:
            raise RejectionError(f"at most {_MAX_STOP_STRINGS} stop strings are allowed, got {count}")
        if body.get("return_hidden_states"):
            raise RejectionError("The server is not configured to return hidden states.")
        for token in body_validation.logit_bias_ids(body):
            if not 0 <= token < self._options.vocab_size:
                raise RejectionError(f"logit_bias must has keys in [0, {self._options.vocab_size - 1}], got {token}.")

    def _check_lora(self, body: Json) -> None:
        """The adapter is the part of the model name after a colon, else `lora_path`."""
        _, colon, name = str(body.get("model") or "").partition(":")
        adapter = name if colon and name else body.get("lora_path")
        if not adapter or adapter in self._options.adapters:
            return
        if not self._options.adapters:
            raise RejectionError(
                f"LoRA adapter '{adapter}' was requested, but LoRA is not enabled. Please launch with --enable-lora."
            )
        raise RejectionError(
            f"The following requested LoRA adapters are not loaded: {adapter}\n"
            f"Loaded adapters: {list(self._options.adapters)}."
        )

    def _prompt_ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._setup.tokenizer.encode(prompt)
        if any(not 0 <= token < self._options.vocab_size for token in prompt):
            raise CrashError("IndexError: index out of range in self")
        return tuple(prompt)

    def max_tokens(self, body: Json, prompts: tuple[tuple[int, ...], ...], default: int | None) -> int:
        longest = max(prompts, key=len)
        rest = max(1, self._options.context - len(longest))
        _, requested = parse_requested_tokens(body, rest if default is None else default)
        self._check_length(longest, requested)
        return requested

    def _check_length(self, prompt: tuple[int, ...], requested: int) -> None:
        context, length = self._options.context, len(prompt)
        if length >= context:
            raise RejectionError(
                f"The input ({length} tokens) is longer than the model's context length ({context} tokens)."
            )
        if length + requested > context:
            raise RejectionError(
                f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested "
                f"a total of {length + requested} tokens: {length} tokens from the input messages and {requested} "
                "tokens for the completion. Please reduce the number of tokens in the input messages or the completion "
                "to fit within the limit."
            )

    def forced_text(self, body: Json) -> str | None:
        try:
            return structured(schema=response_schema(body), regex=body.get("regex"), grammar=body.get("ebnf"))
        except SchemaError as error:
            raise RejectionError(f'Failed to compile json grammar: Unsupported type "{error.kind}"\n') from error
        except PatternError as error:
            raise RejectionError(f"Failed to compile regex grammar: Regex parsing error: {error}\n") from error


def _check_message(index: int, message: Json) -> None:
    place = ("messages", index, _MESSAGE)
    if message["role"] not in _ROLES:
        allowed = ", ".join(f"'{role}'" for role in _ROLES)
        text = f"Value error, 'role' must be one of {allowed}"
        raise InvalidError("value_error", (*place, "role"), text, message["role"], count=2)
    field_limits.check_message_content(message, (*place, "content"), 2)
    for part in body_validation.part_types(message):
        if part not in _PARTS:
            raise InvalidError("union_tag_invalid", (*place, "content"), "Input should be a valid part", part, count=29)
