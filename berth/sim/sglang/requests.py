"""How SGLang 0.5 reads requests: it believes any model name, and some requests kill it."""

from collections.abc import Mapping
from typing import Any

from berth.plan import Task
from berth.sim import body_validation, field_limits
from berth.sim.body_validation import InvalidError, Json, RefusalError
from berth.sim.common_requests import called, chosen_name, conversation, prompts, thinks, tools_of, tops_of
from berth.sim.dialect import CrashError, EmbedAsk, Route, Setup
from berth.sim.generation import Ask
from berth.sim.structured_output import PatternError, SchemaError, response_schema, structured

_MOST_STOPS = 32
_ROLES = ("system", "assistant", "tool", "function", "developer", "user", "latest_reminder")
_PARTS = ("text", "image_url", "video_url", "audio_url", "input_audio", "thinking", "refusal")
_MESSAGE = "function-after[validate_thinking_parts_role(), ChatCompletionMessageGenericParam]"


class SglangReader:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def ask(self, route: Route, body: Json, headers: Mapping[str, str]) -> Ask:  # noqa: ARG002 - no header counts here
        body_validation.check_types(body)
        ask = self._chat(body) if route is Route.CHAT else self._completion(body)
        if self._options.task is not Task.GENERATE:
            raise CrashError("AttributeError: 'NoneType' object has no attribute 'next_token_ids'")
        if (ask.tops or 0) > self._options.vocab_size:
            raise CrashError("RuntimeError: selected index k out of range")
        return ask

    def embed(self, body: Json) -> EmbedAsk:
        body_validation.check_types(body)
        self._check_lora(body)
        if self._options.task is Task.GENERATE:
            raise RefusalError(
                "This model does not appear to be an embedding model by default. Please add `--is-embedding` when "
                "launching the server or try another model."
            )
        given = prompts({"prompt": body.get("input")})
        if given is None or "" in given:
            raise RefusalError("Input cannot be empty")
        if body_validation.whole(body, "dimensions", 0):
            raise RefusalError(
                f"Model '{self.path}' does not support matryoshka representation, changing output dimensions will lead "
                "to poor results."
            )
        inputs = tuple(self._prompt_ids(one) for one in given)
        for one in inputs:
            self._fits(one, 0)
        return EmbedAsk(model=self.path, inputs=inputs, base64=body.get("encoding_format") == "base64")

    @property
    def path(self) -> str:
        """Where the model lies: what embeddings answer as `model`."""
        return f"models/{self._options.name}"

    def _chat(self, body: Json) -> Ask:
        messages = body_validation.messages(body)
        for index, message in enumerate(messages):
            self._check_message(index, message)
        field_limits.response_format(body, ("response_format", "ResponseFormat", "type"))
        self._check_chat(body, messages)
        continues = bool(body.get("continue_final_message")) and messages[-1]["role"] == "assistant"
        ids = conversation(self._setup, messages, continues=continues)
        return Ask(
            chat=True,
            prompts=(ids,),
            max_tokens=self._room(body, (ids,), None),
            tool=called(body)[0] if self._options.tools else None,
            says=self._structured(body),
            thinking=thinks(self._setup, body),
            continues=(body_validation.content(messages[-1]) if continues else "",),
            **self._common(body, chat=True),
        )

    def _completion(self, body: Json) -> Ask:
        if "prompt" not in body:
            raise InvalidError("missing", ("prompt",), "Field required", body)
        if body.get("max_tokens") is not None and body_validation.whole(body, "max_tokens", 0) <= 0:
            cause = {"error": ValueError("max_tokens must be positive")}
            message = "Value error, max_tokens must be positive"
            raise InvalidError("value_error", ("max_tokens",), message, body["max_tokens"], context=cause)
        given = prompts(body)
        if given is None:
            raise RefusalError("Prompt cannot be empty")
        self._check_values(body)
        ids = tuple(self._prompt_ids(one) for one in given)
        texts = tuple(self._setup.tokenizer.decode(one) for one in ids)
        return Ask(
            chat=False,
            prompts=ids,
            max_tokens=self._room(body, ids, 16),
            continues=texts,
            echo=texts if body.get("echo") else (),
            says=self._structured(body),
            **self._common(body, chat=False),
        )

    def _common(self, body: Json, *, chat: bool) -> dict[str, Any]:
        stream = bool(body.get("stream"))
        model = body.get("model")
        return {
            "model": "default" if model is None else str(model),
            "n": body_validation.whole(body, "n", 1),
            "stop": body_validation.texts(body.get("stop")),
            "keep_stop": bool(body.get("no_stop_trim")),
            "endless": bool(body.get("ignore_eos")),
            "least_tokens": body_validation.whole(body, "min_tokens", 0),
            "stream": stream,
            "usage": stream and bool(body_validation.option(body, "stream_options", "include_usage")),
            "continuous": stream and bool(body_validation.option(body, "stream_options", "continuous_usage_stats")),
            "tops": tops_of(body, chat=chat),
            "request_id": str(body.get("rid") or ""),
        }

    def _check_message(self, index: int, message: Json) -> None:
        place = ("messages", index, _MESSAGE)
        if message["role"] not in _ROLES:
            allowed = ", ".join(f"'{role}'" for role in _ROLES)
            text = f"Value error, 'role' must be one of {allowed}"
            raise InvalidError("value_error", (*place, "role"), text, message["role"], count=2)
        field_limits.message_content(message, (*place, "content"), 2)
        for part in body_validation.parts(message):
            if part not in _PARTS:
                raise InvalidError(
                    "union_tag_invalid", (*place, "content"), "Input should be a valid part", part, count=29
                )

    def _check_chat(self, body: Json, messages: list[Json]) -> None:
        if not messages:
            raise RefusalError("Messages cannot be empty.")
        names = [function["name"] for function in tools_of(body)]
        if body.get("tool_choice") == "required" and not names:
            raise RefusalError("Tools cannot be empty if tool choice is set to required.")
        name = chosen_name(body)
        if name is not None and name not in names:
            raise RefusalError(f"Tool '{name}' not found in tools list.")
        for part in (part for message in messages for part in body_validation.parts(message)):
            if part.endswith(("_url", "_audio")):
                raise RefusalError(f"Model only supports text input; received unsupported content type '{part}'.")
        if body_validation.option(body, "response_format", "type") == "json_schema" and response_schema(body) is None:
            raise RefusalError("schema_ is required for json_schema response format request.")
        self._check_values(body)

    def _check_values(self, body: Json) -> None:
        self._check_lora(body)
        field_limits.run(field_limits.SGLANG, body)
        stops = len(body_validation.texts(body.get("stop")))
        if not field_limits.stop_strings(body, _MOST_STOPS):
            raise RefusalError(f"at most {_MOST_STOPS} stop strings are allowed, got {stops}")
        if body.get("return_hidden_states"):
            raise RefusalError("The server is not configured to return hidden states.")
        for token in body_validation.bias_ids(body):
            if not 0 <= token < self._options.vocab_size:
                raise RefusalError(f"logit_bias must has keys in [0, {self._options.vocab_size - 1}], got {token}.")

    def _check_lora(self, body: Json) -> None:
        """Everything after a colon in the model's name is an adapter, else `lora_path` names one."""
        _, colon, named = str(body.get("model") or "").partition(":")
        adapter = named if colon and named else body.get("lora_path")
        if not adapter or adapter in self._options.adapters:
            return
        if not self._options.adapters:
            raise RefusalError(
                f"LoRA adapter '{adapter}' was requested, but LoRA is not enabled. Please launch with --enable-lora."
            )
        raise RefusalError(
            f"The following requested LoRA adapters are not loaded: {adapter}\n"
            f"Loaded adapters: {list(self._options.adapters)}."
        )

    def _prompt_ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._setup.tokenizer.encode(prompt)
        if any(not 0 <= token < self._options.vocab_size for token in prompt):
            raise CrashError("IndexError: index out of range in self")
        return tuple(prompt)

    def _room(self, body: Json, ids: tuple[tuple[int, ...], ...], default: int | None) -> int:
        field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
        longest = max(ids, key=len)
        rest = self._options.context - len(longest)
        wanted = body_validation.whole(body, field, max(1, rest) if default is None else default)
        self._fits(longest, wanted)
        return wanted

    def _fits(self, ids: tuple[int, ...], wanted: int) -> None:
        context, length = self._options.context, len(ids)
        if length >= context:
            raise RefusalError(
                f"The input ({length} tokens) is longer than the model's context length ({context} tokens)."
            )
        if length + wanted > context:
            raise RefusalError(
                f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested "
                f"a total of {length + wanted} tokens: {length} tokens from the input messages and {wanted} tokens for "
                "the completion. Please reduce the number of tokens in the input messages or the completion to fit "
                "within the limit."
            )

    def _structured(self, body: Json) -> str | None:
        try:
            return structured(schema=response_schema(body), regex=body.get("regex"), grammar=body.get("ebnf"))
        except SchemaError as error:
            raise RefusalError(f'Failed to compile json grammar: Unsupported type "{error.kind}"\n') from error
        except PatternError as error:
            raise RefusalError(f"Failed to compile regex grammar: Regex parsing error: {error}\n") from error
