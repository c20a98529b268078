"""Which client API lies behind which path, and in which shape the errors of a path are told."""

from berth.apis.base import ApiFormat
from berth.apis.ollama_chat import OllamaChat
from berth.apis.ollama_embed import OllamaEmbed, OllamaEmbeddings
from berth.apis.ollama_generate import OllamaGenerate
from berth.apis.openai_chat import OpenaiChat
from berth.apis.openai_completions import OpenaiCompletions
from berth.apis.openai_embeddings import OpenaiEmbeddings


def formats() -> dict[str, ApiFormat]:
    """POST of these paths."""
    return {
        "/v1/chat/completions": OpenaiChat(),
        "/v1/completions": OpenaiCompletions(),
        "/v1/embeddings": OpenaiEmbeddings(),
        "/api/chat": OllamaChat(),
        "/api/generate": OllamaGenerate(),
        "/api/embed": OllamaEmbed(),
        "/api/embeddings": OllamaEmbeddings(),
    }


def format_for(path: str, known: dict[str, ApiFormat]) -> ApiFormat:
    """The API whose clients would ask this path: the one with most of it in common; OpenAI's where none has."""
    best, shared = known["/v1/chat/completions"], len("/v1/")
    for own, api in known.items():
        common = _common(path, own)
        if common > shared:
            best, shared = api, common
    return best


def _common(path: str, other: str) -> int:
    """How many characters of whole segments they begin with alike."""
    length = 0
    for mine, its in zip(path.split("/"), other.split("/"), strict=False):
        if mine != its:
            break
        length += len(mine) + 1
    return length
