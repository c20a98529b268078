"""vLLM's POST /tokenize and /detokenize, for every engine. A request with `inputs` is one for TGI's /tokenize."""

from typing import Any, Final

from berth import json_text
from berth.apis.base import NO_HEADERS, Headers
from berth.apis.model_header import model_name
from berth.apis.openai.chat import RULES as CHAT_RULES
from berth.apis.openai.chat import check_messages
from berth.apis.openai.fields import BOOLEAN, OBJECT, TEXT, Rule, check_fields, is_integer, read_object
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.apis.tgi import tokenize
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

TOKENIZE: Final[dict[str, Rule]] = {
    "add_generation_prompt": BOOLEAN,
    "add_special_tokens": BOOLEAN,
    "chat_template": TEXT,
    "chat_template_kwargs": OBJECT,
    "continue_final_message": BOOLEAN,
    "messages": CHAT_RULES["messages"],
    "model": TEXT,
    "prompt": TEXT,
    "return_token_strs": BOOLEAN,
    "tools": CHAT_RULES["tools"],
}
DETOKENIZE: Final[dict[str, Rule]] = {
    "model": TEXT,
    "tokens": Rule(
        holds=lambda value: isinstance(value, list) and all(is_integer(token) and token >= 0 for token in value),
        expected="a list of token ids",
    ),
}
_FORWARDED: Final = TOKENIZE.keys() | {"documents", "reasoning_effort", "tool_choice"}


class Tokenize(OpenaiEndpoint):
    operation = Operation.TOKENIZE

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        if "inputs" in document:
            return tokenize.request_of(document, headers)
        check_fields(document, TOKENIZE, required=())
        if (document.get("prompt") is None) == (document.get("messages") is None):
            raise InvalidRequestError("Send either 'prompt' or 'messages'.", param="prompt")
        if document.get("messages") is not None:
            check_messages(document)
        if document.get("continue_final_message") and document.get("add_generation_prompt"):
            raise InvalidRequestError(
                "'continue_final_message' and 'add_generation_prompt' cannot both be true.",
                param="add_generation_prompt",
            )
        name = model_name(document, headers)
        forwarded = {field: value for field, value in document.items() if field in _FORWARDED and value is not None}
        fields = {**forwarded, "model": name, "return_token_ids": True}
        return InferenceRequest(operation=Operation.TOKENIZE, model=name, body=fields)

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        canonical = json_text.loads(body)
        if request.original:
            return tokenize.response_body(request, canonical)
        return json_text.dumps({**canonical, "token_strs": canonical.get("token_strs")})


class Detokenize(OpenaiEndpoint):
    operation = Operation.DETOKENIZE

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, DETOKENIZE, required=("tokens",))
        name = model_name(document, headers)
        tokens: list[Any] = document["tokens"]
        fields: Json = {"model": name, "tokens": tokens}
        return InferenceRequest(operation=Operation.DETOKENIZE, model=name, body=fields)
