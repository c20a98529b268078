"""The canonical request and answer, where client APIs and engines meet; one file.

The canonical body is OpenAI's JSON (chat, completions, embeddings), because every engine speaks a dialect of it:
a client API turns what it got into an `InferenceRequest`, a dialect turns that into what its engine takes, and the
engine's answer comes back as OpenAI JSON, normalised. OpenAI has no words for the other operations; theirs are these:

    operation    body, beside "model"                                     answer
    TOKENIZE     {"prompt": str} or a chat's {"messages", "tools", ...}   {"count": int, "tokens": [int] | null,
                                                                           "max_model_len": int | null}
                 with "return_token_ids": true                            where "tokens" is not null,
                 with "return_token_strs": true                           and with {"token_strs": [str]} too
    DETOKENIZE   {"tokens": [int]}                                        {"prompt": str}
    RERANK       {"query": str, "documents": [str], "top_n"?: int}        {"results": [{"index": int,
                                                                           "relevance_score": float}], "usage": {...}},
                                                                          the best first
    SCORE        {"text_1": str | [str], "text_2": str | [str]}           {"data": [{"index": int, "score": float}],
                                                                           "usage": {...}}
    CLASSIFY     {"input": str | [str]}                                   {"data": [{"index": int, "label": str,
                                                                           "probs": [float]}], "usage": {...}}

MEDIA (audio, images, moderations) is passed as it came: `body` is empty, and `media` has the client's document or form.

RERANK, SCORE and CLASSIFY may have vLLM's max_tokens_per_doc, max_tokens_per_query, instruction,
truncate_prompt_tokens, truncation_side and use_activation.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What a client has of a streamed answer with one choice."""

    id: str  # of the answer
    created: int
    text: str
    tokens: int  # at least so many: the frames with text
    reasoned: bool = False  # some of it was reasoning
    called: bool = False  # a tool call has begun
    finish_reason: str = ""  # "": it is not out yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A request that goes on as it came: a JSON document, or a form with the place of the model's name in it."""

    path: str  # "/v1/audio/speech"
    content_type: str
    document: Json | None = None  # None: it is a form
    form: bytes = b""
    fields: Json = field(default_factory=dict)  # of the form, without its files: each name's texts
    model_start: int = 0
    model_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A validated request. `body` is OpenAI's JSON for the operation and must not be edited: make a new one."""

    operation: Operation
    model: str  # as the client wrote it: a public name or an alias
    body: Json
    stream: bool = False
    include_usage: bool = False  # the client asked for usage in its stream
    resume: Transcript | None = None  # the client has this of the answer already: what follows is to look like one
    original: Json = field(default_factory=dict)  # the client's own document, where its API is not OpenAI's
    ignored: tuple[str, ...] = ()  # fields of the client's that have no effect: a header of the answer lists them
    at_most: bool = False  # of its API's max_tokens it is no error to be more than the model's context
    media: Media | None = None  # of Operation.MEDIA
    adapter: str = ""  # the LoRA adapter to answer with; "": none


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. All 0 where the engine told nothing."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class FailureKind(StrEnum):
    """What a failed attempt means for the next one."""

    CLIENT = "client"  # the request is wrong everywhere: final
    UNSUPPORTED = "unsupported"  # this engine cannot do it, another may
    OVERLOADED = "overloaded"  # this engine is full, another may not be
    ENGINE = "engine"  # the engine failed: another may not


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt on one engine, in canonical words."""

    kind: FailureKind
    status: int  # the HTTP status that a client would be given for it
    message: str
    type: str = "server_error"
    code: str | None = None  # OpenAI's error code, e.g. "context_length_exceeded"
    param: str | None = None

    @property
    def final(self) -> bool:
        """True: no other engine is asked."""
        return self.kind is FailureKind.CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResponse:
    """A whole, non-streamed answer: OpenAI JSON as bytes, and what it cost."""

    body: bytes
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """What is sent to an engine."""

    path: str  # "/v1/chat/completions"
    body: bytes
    content_type: str = "application/json"
    ignored: tuple[str, ...] = ()  # fields of the request that have no effect on this engine
