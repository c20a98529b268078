"""How vLLM 0.32 reads requests: names, limits, and the words of every refusal as recorded."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from berth.sim import body_validation, field_limits
from berth.sim.body_validation import InvalidError, Json, RefusalError
from berth.sim.common_requests import called, chosen_name, conversation, prompts, thinks, tools_of, tops_of
from berth.sim.dialect import EmbedAsk, Route, Setup
from berth.sim.generation import Ask
from berth.sim.structured_output import PatternError, SchemaError, response_schema, structured

_CHARACTERS_PER_TOKEN = 18  # a prompt longer than this times the context is not even tokenised
_MOST_TOPS = 20
_MOST_STOPS = 4
_USER_CONTENT = "ChatCompletionDeveloperMessageParam"  # the first of the message types that are tried


class VllmReader:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def ask(self, route: Route, body: Json, headers: Mapping[str, str]) -> Ask:
        body_validation.check_types(body)
        ask = self._chat(body) if route is Route.CHAT else self._completion(body)
        given = body.get("request_id") or headers.get("x-request-id")
        return replace(ask, request_id=str(given)) if given else ask

    def embed(self, body: Json) -> EmbedAsk:
        body_validation.check_types(body)
        if self._unknown(body):
            raise RefusalError(f"The model `{body['model']}` does not exist.", status=404)
        if body_validation.whole(body, "dimensions", 0):
            raise RefusalError(
                f"Model '{self._options.name}' does not support Matryoshka embeddings; dimensions must be unset "
                f"(received {body['dimensions']})."
            )
        inputs = tuple(self._cut(body, one) for one in self._inputs(body))
        return EmbedAsk(
            model=self._options.shown(body.get("model")), inputs=inputs, base64=body.get("encoding_format") == "base64"
        )

    def known(self, body: Json) -> None:
        """RefusalError for a model that this server does not have; no model at all is fine."""
        if self._unknown(body):
            names = self._options.names
            aliases = f" Valid aliases: {', '.join(names)}." if len(names) > 1 else ""
            raise RefusalError(f"The model `{body['model']}` does not exist.{aliases}", status=404, param="model")

    def prompt_ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            most = _CHARACTERS_PER_TOKEN * self._options.context
            if len(prompt) > most:
                self._too_long(f"{len(prompt)} characters (more than {most} characters", "input_text", len(prompt))
            return self._setup.tokenizer.encode(prompt)
        for token in prompt:
            if not 0 <= token < self._options.vocab_size:
                raise RefusalError(f"Token id {token} is out of vocabulary")
        return tuple(prompt)

    def _chat(self, body: Json) -> Ask:
        messages = body_validation.messages(body)
        for index, message in enumerate(messages):
            field_limits.message_content(message, ("messages", index, _USER_CONTENT, "content"), 19)
        field_limits.response_format(body, ("response_format", "type"))
        if not field_limits.stop_strings(body, _MOST_STOPS):
            raise InvalidError("string_type", ("stop",), "Input should be a valid string", body["stop"], count=2)
        self.known(body)
        field_limits.run(field_limits.VLLM, body)
        self._check_chat(body, messages)
        return self._chat_ask(body, messages)

    def _chat_ask(self, body: Json, messages: list[Json]) -> Ask:
        continues = bool(body.get("continue_final_message"))
        given = body_validation.content(messages[-1]) if continues else ""
        ids = self._cut(body, conversation(self._setup, messages, continues=continues))
        tool, allowed = called(body)
        says = self._structured(body) if allowed or not body.get("tools") else self._unparsed(body)
        return Ask(
            chat=True,
            prompts=(ids,),
            max_tokens=self._room(body, (ids,), None),
            tool=tool,
            says=says,
            thinking=thinks(self._setup, body),
            hide_thinking=body.get("include_reasoning") is False,
            most_thoughts=_budget(body),
            continues=(given,),
            echo=(given,) if body.get("echo") else (),
            prompt_tops=1 if body.get("echo") else body.get("prompt_logprobs"),
            **self._common(body, chat=True),
        )

    def _completion(self, body: Json) -> Ask:
        self.known(body)
        given = prompts(body)
        if given is None:
            message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
            raise RefusalError(message, param="prompt")
        if body.get("suffix"):
            raise RefusalError("suffix is only supported for models with FIM completion rendering", param="suffix")
        echo = bool(body.get("echo"))
        field_limits.run(field_limits.VLLM, {**body, "max_tokens": None} if echo else body)
        self._check_stream_options(body)
        tops = tops_of(body, chat=False)
        self._check_tops(tops or 0)
        ids = tuple(self._cut(body, self.prompt_ids(one)) for one in given)
        texts = tuple(self._setup.tokenizer.decode(one) for one in ids)
        return Ask(
            chat=False,
            prompts=ids,
            max_tokens=self._room(body, ids, 16),
            continues=texts,
            echo=texts if echo else (),
            says=self._structured(body),
            prompt_tops=1 if echo and tops is not None else body.get("prompt_logprobs"),
            **self._common(body, chat=False),
        )

    def _common(self, body: Json, *, chat: bool) -> dict[str, Any]:
        stream = bool(body.get("stream"))
        usage = stream and bool(body_validation.option(body, "stream_options", "include_usage"))
        return {
            "model": self._options.shown(body.get("model")),
            "n": body_validation.whole(body, "n", 1),
            "stop": body_validation.texts(body.get("stop")),
            "keep_stop": bool(body.get("include_stop_str_in_output")),
            "endless": bool(body.get("ignore_eos")),
            "least_tokens": body_validation.whole(body, "min_tokens", 0),
            "stream": stream,
            "usage": usage,
            "continuous": usage and bool(body_validation.option(body, "stream_options", "continuous_usage_stats")),
            "tops": tops_of(body, chat=chat),
            "with_ids": bool(body.get("return_token_ids")),
        }

    def _check_chat(self, body: Json, messages: list[Json]) -> None:
        self._check_stream_options(body)
        self._check_tools(body)
        if not messages:
            raise RefusalError("Cannot apply chat template to an empty conversation. Provide at least one message.")
        if body.get("chat_template"):
            raise RefusalError(
                "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
                "with untrusted chat template."
            )
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise RefusalError("continue_final_message and add_generation_prompt are not compatible.")
        if any(part not in ("text", "refusal") for message in messages for part in body_validation.parts(message)):
            raise RefusalError(f"{self._options.name} is not a multimodal model")
        self._check_tops(body_validation.whole(body, "top_logprobs", 0))
        if body.get("top_logprobs") and not body.get("logprobs"):
            message = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)"
            raise RefusalError(message, param="top_logprobs")
        self._check_bias(body)

    def _check_stream_options(self, body: Json) -> None:
        if not field_limits.stream_options(body):
            message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
            raise RefusalError(message, param="stream_options")

    def _check_tools(self, body: Json) -> None:
        choice = body.get("tool_choice")
        names = [function["name"] for function in tools_of(body)]
        if choice not in (None, "none") and not names:
            message = "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)"
            raise RefusalError(message, param="tool_choice")
        if chosen_name(body) is not None and chosen_name(body) not in names:
            message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
            raise RefusalError(f"{message} (parameter=tool_choice)", param="tool_choice")
        if not names or self._options.tools or choice == "none":
            return
        if choice in (None, "auto"):
            raise RefusalError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        raise RefusalError('tool_choice="required" requires --tool-call-parser to be set')

    def _check_tops(self, tops: int) -> None:
        if tops > _MOST_TOPS:
            raise RefusalError(
                f"Requested sample logprobs of {tops}, which is greater than max allowed: {_MOST_TOPS} "
                f"(parameter=logprobs, value={tops})",
                param="logprobs",
            )

    def _check_bias(self, body: Json) -> None:
        outside = [token for token in body_validation.bias_ids(body) if token >= self._options.vocab_size]
        if outside:
            raise RefusalError(
                f"token_id(s) {outside} in logit_bias contain out-of-vocab token ids. Vocabulary size: "
                f"{self._options.vocab_size} (parameter=logit_bias, value={outside})",
                param="logit_bias",
            )

    def _unknown(self, body: Json) -> bool:
        return body.get("model") not in (None, *self._options.names, *self._options.adapters)

    def _cut(self, body: Json, ids: tuple[int, ...]) -> tuple[int, ...]:
        limit = body_validation.whole(body, "truncate_prompt_tokens", 0)
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
        raise RefusalError(
            f"This model's maximum context length is {context} tokens. However, your prompt contains {what}, {why}. "
            f"Please reduce the length of the input prompt. (parameter={param}, value={value})",
            param=param,
        )

    def _room(self, body: Json, ids: tuple[tuple[int, ...], ...], default: int | None) -> int:
        context = self._options.context
        field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
        rest = context - max(len(one) for one in ids)
        wanted = body_validation.whole(body, field, rest if default is None else default)
        if wanted > context:
            raise RefusalError(
                f"{field}={wanted} cannot be greater than max_model_len={context}. Please request fewer output tokens. "
                f"(parameter={field}, value={wanted})",
                param=field,
            )
        return min(wanted, rest)

    def _inputs(self, body: Json) -> list[tuple[int, ...]]:
        if "messages" in body:
            return [conversation(self._setup, body_validation.messages(body))]
        if body.get("input") == "":
            raise RefusalError("The decoder prompt cannot be empty")
        given = prompts({"prompt": body.get("input")})
        if given is None:
            raise RefusalError("You must pass at least one prompt")
        return [self.prompt_ids(one) for one in given]

    def _structured(self, body: Json) -> str | None:
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
            raise RefusalError(f"Grammar error: Invalid type: {error.kind}") from error
        except PatternError as error:
            raise RefusalError(f"Grammar error: invalid regex: {error}") from error

    def _unparsed(self, body: Json) -> str | None:
        """What the model says when it may not call tools: the call all the same, as plain text."""
        tool, _ = called({**body, "tool_choice": None})
        if tool is None:
            return None
        return f'<tool_call>\n{{"name": "{tool.name}", "arguments": {tool.arguments}}}\n</tool_call>'


def _budget(body: Json) -> int | None:
    value = body.get("thinking_token_budget")
    return None if value is None else max(0, body_validation.whole(body, "thinking_token_budget", 0))
