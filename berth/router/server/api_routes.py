"""The client API of each path, and the API whose error format fits an unknown path."""

import sys

from berth.apis.anthropic.endpoints import AnthropicCountTokens, AnthropicMessages
from berth.apis.base import ApiFormat
from berth.apis.ollama.chat import OllamaChat
from berth.apis.ollama.embed import OllamaEmbed, OllamaEmbeddings
from berth.apis.ollama.generate import OllamaGenerate
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.apis.openai.embeddings import OpenaiEmbeddings
from berth.apis.openai.media import IMAGES, MODERATIONS, SPEECH, OpenaiForm, OpenaiMedia
from berth.apis.rerank import Rerank
from berth.apis.responses.endpoints import OpenaiInputTokens, OpenaiResponses
from berth.apis.responses.store import ResponseStore
from berth.apis.score import Classify, Score
from berth.apis.tgi.endpoints import TgiGenerate, TgiRoot
from berth.apis.tokenize import Detokenize, Tokenize


def formats(responses: ResponseStore, most_bytes: int = sys.maxsize) -> dict[str, ApiFormat]:
    """POST of these paths. `most_bytes`: of a request with all that it refers to."""
    return {
        "/v1/chat/completions": OpenaiChat(),
        "/v1/completions": OpenaiCompletions(),
        "/v1/embeddings": OpenaiEmbeddings(),
        "/v1/audio/transcriptions": OpenaiForm("/v1/audio/transcriptions"),
        "/v1/audio/translations": OpenaiForm("/v1/audio/translations"),
        "/v1/audio/speech": OpenaiMedia("/v1/audio/speech", SPEECH, "input"),
        "/v1/images/generations": OpenaiMedia("/v1/images/generations", IMAGES, "prompt"),
        "/v1/moderations": OpenaiMedia("/v1/moderations", MODERATIONS, "input"),
        "/v1/responses": OpenaiResponses(responses, most_bytes=most_bytes),
        "/v1/responses/input_tokens": OpenaiInputTokens(responses, most_bytes=most_bytes),
        "/v1/messages": AnthropicMessages(),
        "/v1/messages/count_tokens": AnthropicCountTokens(),
        "/api/chat": OllamaChat(),
        "/api/generate": OllamaGenerate(),
        "/api/embed": OllamaEmbed(),
        "/api/embeddings": OllamaEmbeddings(),
        **dict.fromkeys(("/v1/rerank", "/rerank"), Rerank(return_documents=True)),
        "/v2/rerank": Rerank(return_documents=False),
        **dict.fromkeys(("/v1/score", "/score"), Score()),
        **dict.fromkeys(("/v1/classify", "/classify"), Classify()),
        **dict.fromkeys(("/v1/tokenize", "/tokenize"), Tokenize()),
        **dict.fromkeys(("/v1/detokenize", "/detokenize"), Detokenize()),
        "/generate": TgiGenerate(stream=False),
        "/generate_stream": TgiGenerate(stream=True),
        "/": TgiRoot(),
    }


def format_for(path: str, known: dict[str, ApiFormat]) -> ApiFormat:
    """The API with the longest common part of the path; OpenAI's if none has any."""
    best, shared = known["/v1/chat/completions"], len("/v1/")
    for own, api in known.items():
        length = 0  # of the segments with which both begin
        for segment, other in zip(path.split("/"), own.split("/"), strict=False):
            if segment != other:
                break
            length += len(segment) + 1
        if length > shared:
            best, shared = api, length
    return best
