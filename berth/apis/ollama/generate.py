"""Ollama's generate: POST /api/generate. There are three cases:

1. `raw`: the prompt goes to the model as it is: a completion.
2. `suffix`: what is to be filled in between two texts: a completion too; few engines do it.
3. All others: the prompt is put into the model's own template: a chat of one message.
"""

import time
from typing import Final

from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.chat import chat_request
from berth.apis.ollama.fields import (
    GENERATING,
    LIST,
    check,
    generation_fields,
    ignored_fields,
    is_streamed,
    is_unloading,
)
from berth.apis.ollama.messages import user_message
from berth.apis.ollama.response import GENERATE, OllamaAnswers, TimedRequest, loaded, whole_answer
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, read_object
from berth.canonical import InferenceRequest, Json, Operation
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
# Of a completion without num_predict. Ollama has no limit then; engines take 16, and refuse more than their context.
COMPLETION_TOKENS: Final = 1024
_NOT_WITH_RAW: Final = ("system", "context", "images")


class OllamaGenerate(OllamaAnswers):
    operation = Operation.CHAT  # that of most requests

    def parse(
        self,
        body: bytes,
        headers: Headers = NO_HEADERS,  # noqa: ARG002 - ApiFormat's
    ) -> InferenceRequest | Immediate:
        begun_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, RULES)
        _check_combinations(document)
        if not document.get("prompt"):
            return loaded(document["model"], GENERATE, unloading=is_unloading(document))
        if document.get("raw") or document.get("suffix"):
            return _completion(document, begun_ns)
        system = [{"role": "system", "content": document["system"]}] if document.get("system") else []
        messages = [*system, user_message(document["prompt"], document.get("images"), "images")]
        return chat_request(document, messages, begun_ns, ignored_fields(document, "context"))

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        return whole_answer(request, GENERATE, body)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return OllamaStream(request, GENERATE)


def _check_combinations(document: Json) -> None:
    if document.get("template"):
        raise InvalidRequestError(
            "'template' is not supported: the model's own is used. Send the prompt as the model is to see it, with "
            "'raw': true.",
            param="template",
        )
    for name in _NOT_WITH_RAW:
        if document.get("raw") and document.get(name):
            raise InvalidRequestError(f"{name!r} is not allowed with 'raw': true.", param=name)
    if document.get("suffix") and document.get("images"):
        raise InvalidRequestError("'images' is not allowed with 'suffix'.", param="images")


def _completion(document: Json, begun_ns: int) -> TimedRequest:
    body: Json = {"model": document["model"], "prompt": document["prompt"], "max_tokens": COMPLETION_TOKENS}
    body |= generation_fields(document)
    if document.get("suffix"):
        body["suffix"] = document["suffix"]
    if document.get("logprobs"):
        body["logprobs"] = document.get("top_logprobs") or 1  # 0 is none at all to some engines
    stream = is_streamed(document)
    if stream:
        body["stream"] = True
    return TimedRequest(
        operation=Operation.COMPLETION,
        model=document["model"],
        body=body,
        stream=stream,
        include_usage=stream,
        original=document,
        ignored=ignored_fields(document, "context", "system", "think"),
        begun_ns=begun_ns,
    )
