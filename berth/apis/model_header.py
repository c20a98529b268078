"""Model lookup for APIs without a required `model` field: TGI and TEI serve a single model, and vLLM makes it optional.

`model` in the body wins over the header x-berth-model (which the path /models/{name} sets). The name "" stands for the
only model that supports the operation; the router resolves it.
"""

from typing import Final

from berth.apis.base import Headers
from berth.canonical import Json

HEADER: Final = b"x-berth-model"


def model_name(document: Json, headers: Headers) -> str:
    """Empty where neither names a model. A `model` that is not a string is reported by the check of fields."""
    given = document.get("model") or headers.get(HEADER, b"").decode("latin-1")
    return given if isinstance(given, str) else ""
