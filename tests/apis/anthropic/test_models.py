from typing import Any

from anthropic.types import ModelInfo
from pydantic import TypeAdapter

from berth.apis.anthropic.models import is_anthropic, model_info, model_list

CARD = {"id": "chat", "object": "model", "created": 1_700_000_000, "owned_by": "berth", "max_model_len": 4096}
OTHER = {"id": "org/embed", "object": "model", "created": 1_700_000_000, "owned_by": "berth"}


def test_translates_a_model() -> None:
    assert model_info(CARD) == {
        "type": "model",
        "id": "chat",
        "display_name": "chat",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
        "max_input_tokens": 4096,
    }
    assert "max_input_tokens" not in model_info(OTHER)


def test_model_matches_the_clients_type() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ModelInfo)
    found = adapter.validate_python(model_info(CARD))

    assert found.created_at.year == 2023
    assert not found.model_extra


def test_list_has_one_page() -> None:
    found = model_list([CARD, OTHER])

    assert [model["id"] for model in found["data"]] == ["chat", "org/embed"]
    assert (found["first_id"], found["last_id"], found["has_more"]) == ("chat", "org/embed", False)
    assert model_list([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


def test_recognises_clients_by_their_header() -> None:
    assert is_anthropic({b"anthropic-version": b"2023-06-01"})
    assert not is_anthropic({b"x-api-key": b"k"})
