"""Paths of the official clients that Berth does not serve, and what to use instead.

A client that requests one gets a 501 in its API's format, not a bare 404 or 405 that looks like a wrong URL.
"""

from collections.abc import Mapping
from typing import Final

_STORES_NOTHING: Final = "Berth stores no files: send their content in the request."
_PLATFORM: Final = "It is part of the provider's platform, not of a model server."
_AGENTS: Final = "Berth runs no agents: use /v1/responses or /v1/messages, and run the tools in the client."
_EMBEDDINGS: Final = "Use /v1/embeddings or /v1/rerank with a database of your own."
_ONE_BY_ONE: Final = "Send the requests one by one, as many at a time as you like: Berth queues them."
_MODELS: Final = "The operator of this server sets its models with BERTH_MODELS."
_ENGINE: Final = "It is an endpoint of one engine. Berth's own are /health, /ready, /status, /metrics and /v1/models."

# The first one or two segments of a path after /v1 or /v2 -> what to do instead. "x/": the path has one segment.
VERSIONED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("agents", "assistants", "threads", "sessions", "chatkit", "environments", "dreams"), _AGENTS),
    **dict.fromkeys(("deployments", "deployment_runs", "memory_stores", "skills", "vaults", "tunnels"), _AGENTS),
    **dict.fromkeys(("containers", "content_provenance_checks", "evals", "fine_tuning", "decisions"), _PLATFORM),
    **dict.fromkeys(("organization", "organizations", "projects", "safety", "user_profiles"), _PLATFORM),
    **dict.fromkeys(("webhook_endpoints", "webhook_event_types", "systemone", "check-api-key"), _PLATFORM),
    **dict.fromkeys(("connectors", "datasets", "finetuning"), _PLATFORM),
    **dict.fromkeys(("files", "uploads"), _STORES_NOTHING),
    **dict.fromkeys(("batches", "messages/batches", "embed-jobs"), _ONE_BY_ONE),
    **dict.fromkeys(("vector_stores", "embed"), _EMBEDDINGS),
    **dict.fromkeys(("realtime", "live"), "Use /v1/chat/completions with 'stream': true."),
    "audio": "Served are /v1/audio/speech, /v1/audio/transcriptions and /v1/audio/translations.",
    "images": "Served is /v1/images/generations.",
    "videos": "No engine here generates videos.",
    "chat/completions": "Use POST /v1/chat/completions. Berth stores no chats.",
    "chat/": "Use POST /v1/chat/completions.",
    "conversations": "Berth stores responses, not conversations: use 'previous_response_id', or send all items.",
    "responses/compact": "Ask the model for a summary, and send that as a message in place of the earlier ones.",
    "models": _MODELS,
    **dict.fromkeys(("generate", "summarize", "parse"), "Use POST /v1/chat/completions."),
    **dict.fromkeys(("load_lora_adapter", "unload_lora_adapter"), _MODELS),
}
# The same for all other paths.
OTHERS: Final[Mapping[str, str]] = {
    "api/blobs": _STORES_NOTHING,
    "tokenizer_info": "Use POST /tokenize and POST /detokenize.",
    **dict.fromkeys(("get_model_info", "get_server_info", "model_info", "server_info", "props", "slots"), _ENGINE),
}


def advice(path: str) -> str | None:
    """For a path that is not served, or not with this method; None for one that no client is known to request."""
    segments = path.strip("/").split("/")
    table = OTHERS
    if segments[0] in ("v1", "v2"):
        table, segments = VERSIONED, segments[1:]
    keys = ("/".join([*segments, ""][:2]), "/".join(segments[:1]))
    return next((table[key] for key in keys if key in table), None)
