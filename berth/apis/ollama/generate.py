"""Ollama's generate: POST /api/generate. There are three cases:

1. `raw`: the prompt goes to the model unchanged, as a completion.
2. `suffix`: the model fills in the text between prompt and suffix. This is a completion too; few engines support it.
3. Otherwise the prompt is put into the model's own template: a chat with one message.
"""

import time
from typing import Final

from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.fields import GENERATING, LIST, check, ignored_fields, keep_alive_s
from berth.apis.ollama.messages import user_message
from berth.apis.ollama.request import chat_request, completion_request
from berth.apis.ollama.response import GENERATE, OllamaEndpoint, load_response, response_body
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, read_object
from berth.canonical import InferenceRequest, Operation
from berth.errors import InvalidRequestError

RULES: dict[str, Rule] = {
    **GENERATING,
    "context": LIST,
    "images": LIST,
    "prompt": TEXT,
    "raw": BOOLEAN,
    "suffix": TEXT,
    "system": TEXT,
    "template": TEXT,
}
_NOT_WITH_RAW: Final = ("system", "context", "images")


class OllamaGenerate(OllamaEndpoint):
    operation = Operation.CHAT  # of most requests

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        begun_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, RULES)
        if document.get("template"):
            raise InvalidRequestError(
                "'template' is not supported. To bypass the model's own template, send the formatted prompt with "
                "'raw': true.",
                param="template",
            )
        for name in _NOT_WITH_RAW:
            if document.get("raw") and document.get(name):
                raise InvalidRequestError(f"{name!r} is not allowed with 'raw': true.", param=name)
        if document.get("suffix") and document.get("images"):
            raise InvalidRequestError("'images' is not allowed with 'suffix'.", param="images")
        if not document.get("prompt"):
            return load_response(document["model"], GENERATE, keep_alive_s=keep_alive_s(document))
        if document.get("raw") or document.get("suffix"):
            return completion_request(document, begun_ns)
        system = [{"role": "system", "content": document["system"]}] if document.get("system") else []
        messages = [*system, user_message(document["prompt"], document.get("images"), "images")]
        return chat_request(document, messages, begun_ns, ignored_fields(document, "context"))

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return response_body(request, GENERATE, body)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return OllamaStream(request, GENERATE)
