"""TGI's tokenize: each token with its text and its range of characters in the input.

Engines return tokens as their vocabulary writes them: byte-level BPE has a letter for each byte, SentencePiece "▁" for
a space and <0x0A> for a byte. Any other token counts as a special token, which covers no characters.
"""

import re
from typing import Any, Final

from berth import json_text
from berth.apis.base import Headers
from berth.apis.model_header import model_name
from berth.apis.openai.fields import BOOLEAN, OBJECT, TEXT, check_fields
from berth.canonical import InferenceRequest, Json, Operation

RULES: Final = {"add_special_tokens": BOOLEAN, "inputs": TEXT, "model": TEXT, "parameters": OBJECT}
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
# Byte-level BPE: printable bytes stand for themselves, the others are numbered from 256.
_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS: Final = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_BYTE_OF: Final = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(_OTHERS)
}


def request_of(document: Json, headers: Headers) -> InferenceRequest:
    check_fields(document, RULES, required=("inputs",))
    name = model_name(document, headers)
    fields: Json = {"model": name, "prompt": document["inputs"], "return_token_ids": True, "return_token_strs": True}
    if document.get("add_special_tokens") is not None:
        fields["add_special_tokens"] = document["add_special_tokens"]
    return InferenceRequest(operation=Operation.TOKENIZE, model=name, body=fields, original=document)


def response_body(request: InferenceRequest, canonical: Json) -> bytes:
    """`canonical` has the tokens as strings too."""
    return json_text.dumps(locate_tokens(request.original["inputs"], canonical["tokens"], canonical["token_strs"]))


def locate_tokens(text: str, ids: list[int], names: list[str]) -> list[dict[str, Any]]:
    """The tokens with their ranges; start and stop count characters."""
    data = text.encode("utf-8", "surrogatepass")
    end = stop = complete = 0  # in bytes; in characters, and where the last complete one of them ends
    tokens: list[dict[str, Any]] = []
    for token_id, name in zip(ids, names, strict=True):
        begin = end
        plain = name.replace("▁", " ").encode("utf-8", "surrogatepass")
        if byte := _BYTE.fullmatch(name):
            spellings = [bytes.fromhex(byte[1])]
        elif all(letter in _BYTE_OF for letter in name):
            spellings = [bytes(_BYTE_OF[letter] for letter in name), plain]
        else:  # SentencePiece puts a space before a text without one
            spellings = [plain, plain.removeprefix(b" ")]
        end += next((len(piece) for piece in spellings if piece and data.startswith(piece, begin)), 0)
        start = stop
        piece = data[complete:end].decode("utf-8", "ignore")
        complete, stop = complete + len(piece.encode()), stop + len(piece)
        tokens.append({"id": token_id, "text": text[start:stop] or name, "start": start, "stop": stop})
    return tokens
