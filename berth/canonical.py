"""The canonical request and response, where client APIs and engines meet.

The canonical body is OpenAI's JSON (chat, completions, embeddings), because every engine speaks a dialect of it.
A client API translates its request into an `InferenceRequest`, and a dialect translates that for its engine. The
engine's response comes back as normalised OpenAI JSON. OpenAI does not define the other operations; they are:

    operation    body, in addition to "model"                             response
    TOKENIZE     {"prompt": str} or a chat's {"messages", "tools", ...}   {"count": int, "tokens": [int] | null,
                                                                           "max_model_len": int | null}
                 with "return_token_ids": true                            where "tokens" is not null,
                 with "return_token_strs": true                           and with {"token_strs": [str]} too
    DETOKENIZE   {"tokens": [int]}                                        {"prompt": str}
    RERANK       {"query": str, "documents": [str], "top_n"?: int}        {"results": [{"index": int,
                                                                           "relevance_score": float}], "usage": {...}},
                                                                          best first
    SCORE        {"text_1": str | [str], "text_2": str | [str]}           {"data": [{"index": int, "score": float}],
                                                                           "usage": {...}}
    CLASSIFY     {"input": str | [str]}                                   {"data": [{"index": int, "label": str,
                                                                           "probs": [float]}], "usage": {...}}

MEDIA (audio, images, moderations) is forwarded unchanged: `body` is empty, and `media` has the client's document or
form.

RERANK, SCORE and CLASSIFY may have vLLM's max_tokens_per_doc, max_tokens_per_query, instruction,
truncate_prompt_tokens, truncation_side and use_activation.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

Json = dict[str, Any]


class Operation(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    MEDIA = "media"


# For what each request compares: Python 3.11 takes 0.2 µs to find a member in its class.
CHAT: Final = Operation.CHAT
COMPLETION: Final = Operation.COMPLETION
EMBEDDING: Final = Operation.EMBEDDING
MEDIA: Final = Operation.MEDIA


class Transcript(Struct, frozen=True, kw_only=True):
    """What a client has received of a streamed response with one choice."""

    id: str  # of the response
    created: int
    text: str
    tokens: int  # a lower bound: the number of frames with text
    reasoned: bool = False  # it contains reasoning
    called: bool = False  # a tool call has begun
    finish_reason: str = ""  # "": not sent yet


class Media(Struct, frozen=True, kw_only=True):
    """A request that is not translated: a JSON document, or a form and the position of the model's name in it."""

    path: str  # "/v1/audio/speech"
    content_type: str
    document: Json | None = None  # None: a form
    form: bytes = b""
    fields: Json = msgspec.field(default_factory=dict)  # of the form, without its files: each name's texts
    model_start: int = 0
    model_end: int = 0


class InferenceRequest(Struct, frozen=True, kw_only=True):
    """A validated request. `body` is OpenAI's JSON for the operation. It must not be edited: make a new one."""

    operation: Operation
    model: str  # as the client wrote it: a public name or an alias
    body: Json
    stream: bool = False
    include_usage: bool = False  # the client asked for usage in its stream
    resume: Transcript | None = None  # already sent to the client: the stream continues it
    original: Json = msgspec.field(default_factory=dict)  # the client's own document, where its API is not OpenAI's
    ignored: tuple[str, ...] = ()  # the client's fields without effect, listed in the header x-berth-ignored
    at_most: bool = False  # a max_tokens beyond the model's context is dropped rather than rejected
    media: Media | None = None  # of Operation.MEDIA
    adapter: str = ""  # the LoRA adapter to use; "": none
    earlier_bytes: int = 0  # what its conversation has from stored responses


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts. All 0 where the engine reported none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    implausible: bool = False  # the engine reported what cannot be a number of tokens; that is 0 here


class FailureKind(StrEnum):
    """What a failed attempt means for the next one."""

    CLIENT = "client"  # every engine would reject the request: final
    UNSUPPORTED = "unsupported"  # this engine does not support it, another may
    OVERLOADED = "overloaded"  # this engine is at capacity, another may not be
    LOADING = "loading"  # this engine is not ready yet, another may be
    CONFIG = "config"  # this server refuses Berth's own key or name for the model, another may not
    ENGINE = "engine"  # this engine failed, another may not


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt on one engine, in canonical terms."""

    kind: FailureKind
    status: int  # the HTTP status for the client
    message: str
    type: str = "server_error"
    code: str | None = None  # OpenAI's error code, e.g. "context_length_exceeded"
    param: str | None = None

    @property
    def final(self) -> bool:
        """True: no other engine is tried."""
        return self.kind is FailureKind.CLIENT


class EngineResponse(Struct, frozen=True, kw_only=True):
    """A complete, non-streamed response: OpenAI JSON as bytes, and its token counts."""

    body: bytes
    usage: Usage = Usage()


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """The HTTP request to an engine."""

    path: str  # "/v1/chat/completions"
    body: bytes
    content_type: str = "application/json"
    ignored: tuple[str, ...] = ()  # fields of the request without effect on this engine
