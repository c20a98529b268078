"""The list of models in Anthropic's form: GET /v1/models with the header `anthropic-version`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from berth.apis.base import Headers

Card = dict[str, Any]  # an entry of OpenAI's list


def is_anthropic(headers: Headers) -> bool:
    """All of Anthropic's clients send this header, and no others."""
    return b"anthropic-version" in headers


def model_list(cards: Sequence[Card]) -> dict[str, Any]:
    """All models on one page."""
    models = [model_info(card) for card in cards]
    ids = [model["id"] for model in models]
    return {"data": models, "has_more": False, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


def model_info(card: Card) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(card["created"]), UTC)
    model: dict[str, Any] = {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
    }
    if "max_model_len" in card:
        model["max_input_tokens"] = card["max_model_len"]
    return model
