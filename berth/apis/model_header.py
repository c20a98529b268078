"""Which model a request is for whose API has no field for one: TGI and TEI serve a single model, vLLM need not be told.

`model` in the body counts, then the header x-berth-model (the path /models/{name} sets it). With none of them it
is the only model that can do what is asked: the router finds that out for the name "".
"""

from typing import Final

from berth.apis.base import Headers
from berth.canonical import Json

HEADER: Final = b"x-berth-model"


def model_name(document: Json, headers: Headers) -> str:
    """Empty where neither says one. A `model` that is no text is left for the check of fields."""
    given = document.get("model") or headers.get(HEADER, b"").decode("latin-1")
    return given if isinstance(given, str) else ""
