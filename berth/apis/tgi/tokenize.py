"""TGI's tokenize: each token with its text and the characters of the input that it stands for.

Engines tell tokens as their vocabulary writes them: byte-level BPE has a letter for each byte, SentencePiece "▁" for
a space and <0x0A> for a byte. What is neither is taken for a special token, which stands for no characters.
"""

import re
from typing import Any, Final

import orjson

from berth.apis.base import Headers
from berth.apis.model_header import model_name
from berth.apis.openai.fields import BOOLEAN, OBJECT, TEXT, check_fields
from berth.canonical import InferenceRequest, Json, Operation

RULES: Final = {"add_special_tokens": BOOLEAN, "inputs": TEXT, "model": TEXT, "parameters": OBJECT}
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")


def _letters() -> dict[str, int]:
    """Byte-level BPE: printable bytes are themselves, the others are counted up from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF: Final = _letters()


def request_of(document: Json, headers: Headers) -> InferenceRequest:
    check_fields(document, RULES, required=("inputs",))
    name = model_name(document, headers)
    fields: Json = {"model": name, "prompt": document["inputs"], "return_token_ids": True, "return_token_strs": True}
    if document.get("add_special_tokens") is not None:
        fields["add_special_tokens"] = document["add_special_tokens"]
    return InferenceRequest(operation=Operation.TOKENIZE, model=name, body=fields, original=document)


def answer(request: InferenceRequest, told: Json) -> bytes:
    """`told`: the canonical answer, with the texts of the tokens."""
    return orjson.dumps(placed(request.original["inputs"], told["tokens"], told["token_strs"]))


def placed(text: str, ids: list[int], names: list[str]) -> list[dict[str, Any]]:
    """The tokens in their places; start and stop count characters."""
    data = text.encode("utf-8", "surrogatepass")
    at = 0
    tokens: list[dict[str, Any]] = []
    for number, name in zip(ids, names, strict=True):
        begun, at = at, _end(data, at, name)
        start, stop = _characters(data, begun), _characters(data, at)
        tokens.append({"id": number, "text": text[start:stop] or name, "start": start, "stop": stop})
    return tokens


def _end(data: bytes, at: int, name: str) -> int:
    """Where the token ends that begins at `at`; there, where it stands for nothing of the text."""
    for piece in _spellings(name):
        if piece and data.startswith(piece, at):
            return at + len(piece)
    return at


def _spellings(name: str) -> list[bytes]:
    """What it may be in the text. SentencePiece puts a space before a text that has none."""
    if found := _BYTE.fullmatch(name):
        return [bytes.fromhex(found[1])]
    plain = name.replace("▁", " ").encode("utf-8", "surrogatepass")
    if all(letter in _BYTE_OF for letter in name):
        return [bytes(_BYTE_OF[letter] for letter in name), plain]
    return [plain, plain.removeprefix(b" ")]


def _characters(data: bytes, at: int) -> int:
    """How many characters are complete there."""
    return len(data[:at].decode("utf-8", "ignore"))
