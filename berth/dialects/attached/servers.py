"""The dialects of attached servers that differ in what they read and refuse only.

What stands here was seen in the servers' responses and sources, of the versions that docs/models.md names.
"""

from collections.abc import Mapping
from typing import ClassVar

from berth.canonical import Json
from berth.dialects.attached.server import COMMON_CHAT, COMMON_COMPLETION, AttachedDialect
from berth.dialects.base import UnsupportedError
from berth.dialects.requests.engine_fields import fields
from berth.plan import DialectName


class OpenaiCloudDialect(AttachedDialect):
    """OpenAI's own API rejects what it does not know, and some models reject the old name of the limit."""

    name = DialectName.OPENAI_CLOUD
    server = "OpenAI"
    fragile = False
    limit_fields = ("max_completion_tokens",)
    needs_uuid = False
    continues_chat = continues_completion = False
    health_paths = ("/v1/models",)


class TransformersDialect(AttachedDialect):
    """`transformers serve` ignores some of OpenAI's fields with a line in its log, and rejects all others with 422.

    It adds the stop string to the text, and reads `frequency_penalty` as a repetition penalty: both are refused.
    """

    name = DialectName.TRANSFORMERS
    server = "transformers serve"
    limit_fields = ("max_tokens",)
    needs_uuid = False
    continues_chat, continues_completion = False, True
    health_paths = ("/health", "/v1/models")
    chat_fields = fields(
        "chat_template_kwargs logit_bias max_tokens messages model seed stream temperature tools top_p"
    )
    completion_fields = fields("max_tokens model prompt seed stream suffix temperature top_p")
    constraints = frozenset()
    forces_calls = takes_ids = takes_lists = takes_images = False

    def spell_chat(self, body: Json) -> Json:
        body = without_choice(super().spell_chat(body))
        if body.get("max_tokens") == 0:  # with which it fails
            raise UnsupportedError(f"{self.server} generates at least one token", param="max_tokens")
        if bias := body.get("logit_bias"):
            body["logit_bias"] = {token: float(value) for token, value in bias.items()}
        return body


class MlxDialect(AttachedDialect):
    """`mlx_lm.server` computes what it is sent as a chat of text. Prompts that are no text end its only thread.

    A stop string is left out, and the text does not end there: refused.
    """

    name = DialectName.MLX
    server = "mlx_lm.server"
    needs_uuid = False
    continues_chat = continues_completion = False
    health_paths = ("/health",)  # /v1/models answers also when nothing generates any more
    chat_fields = (COMMON_CHAT - fields("stop")) | fields(
        "chat_template_kwargs logit_bias logprobs min_p repetition_penalty top_k top_logprobs"
    )
    completion_fields = (COMMON_COMPLETION - fields("stop")) | fields(
        "logit_bias logprobs min_p repetition_penalty top_k"
    )
    constraints = frozenset()
    forces_calls = takes_ids = takes_lists = takes_images = False

    def spell_chat(self, body: Json) -> Json:
        return without_choice(super().spell_chat(body))


class LlamacppPythonDialect(AttachedDialect):
    """`python -m llama_cpp.server` takes nothing but UUIDs as request ids, and one request at a time: by default the
    next one ends the stream that runs.
    """

    name = DialectName.LLAMACPP_PYTHON
    server = "llama-cpp-python's server"
    limit_fields = ("max_tokens",)
    needs_uuid = True
    continues_chat, continues_completion = False, True
    health_paths = ("/v1/models",)
    chat_fields = COMMON_CHAT | fields("logit_bias logprobs min_p repeat_penalty response_format top_k top_logprobs")
    completion_fields = COMMON_COMPLETION | fields("echo logit_bias logprobs min_p repeat_penalty suffix top_k")
    takes_ids = takes_lists = takes_images = developer_role = False
    forces_calls = True  # a function by name; "required" is not known to it
    renames: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}

    streams_usage = False

    def constrain(self, kind: str, value: object) -> Json:
        return {"response_format": {"type": "json_object", "schema": value if kind == "json" else {"type": "object"}}}

    def spell_chat(self, body: Json) -> Json:
        body = super().spell_chat(body)
        if body.get("max_tokens") == 0:  # to which it sets no limit
            raise UnsupportedError(f"{self.server} generates at least one token", param="max_tokens")
        body["messages"] = messages = [dict(message) for message in body["messages"]]
        for message in messages:  # the content is a text, or missing
            content = message.pop("content", None)
            if isinstance(content, list):
                content = "\n".join(part.get("text") or "" for part in content)
            if content is not None:
                message["content"] = content
        if body.get("tool_choice") == "required":
            tools = body.get("tools") or []
            if len(tools) != 1:
                raise UnsupportedError(f"{self.server} forces a tool by its name only", param="tool_choice")
            body["tool_choice"] = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
        return body


def without_choice(body: Json) -> Json:
    """For a server that ignores `tool_choice`: without tools it calls none. It may call several at once, of which the
    client gets one where it wants no more.
    """
    rest = {name: value for name, value in body.items() if name not in ("tool_choice", "parallel_tool_calls")}
    if body.get("tool_choice") == "none":
        rest.pop("tools", None)
    return rest
