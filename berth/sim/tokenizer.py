"""A small reversible tokenizer: known words as one token, otherwise pairs of letters and single bytes.

Ids: 0-2 are special, 3-258 the 256 bytes, then words. Every vocabulary size from 259 up works; a smaller one knows
fewer words. The same text and size give the same ids in every process.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from string import ascii_lowercase

UNKNOWN, START, END = 0, 1, 2
_FIRST_BYTE = 3
FIRST_WORD = _FIRST_BYTE + 256
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")
_COMMON = (
    "Hello hello world the of and to a in is it you that he was for on are with as they at be this have from or one "
    "had by word but not what all were we when your can said there use an each which she do how their if will up "
    "other about out many then them these so some her would make like him into time has look two more write go see "
    "number no way could people my than first water been call who now find long down day did get come made may part "
    "user assistant system tool city unit name true false null type string value question answer please thank yes"
)
_PUNCTUATION = ["", '{"', '":', "", '"', '"}', '"}}', '",', ',"', "{}", '["', '"]', "[]", "},", '":', '{"', ':"', ""]
_MAX_CACHED_TEXTS = 512


class Tokenizer:
    """`texts` are the ones that the engine generates: their words are known, so that it streams them word by word."""

    def __init__(self, texts: Iterable[str], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        words = dict.fromkeys(_words(texts))
        capacity = vocab_size - FIRST_WORD
        self._words = [word for word in words if len(word) > 1][:capacity]
        self._ids = {word: FIRST_WORD + index for index, word in enumerate(self._words)}
        self._cache: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        cached = self._cache.get(text)
        if cached is not None:
            return cached
        ids: list[int] = []
        for piece in _PIECE.findall(text):
            at = 0
            while at < len(piece):
                word = piece if at == 0 and piece in self._ids else piece[at : at + 2]
                token = self._ids.get(word)
                if token is None:
                    word = piece[at]
                    ids += [_FIRST_BYTE + byte for byte in word.encode("utf-8", "surrogatepass")]
                else:
                    ids.append(token)
                at += len(word)
        tokens = tuple(ids)
        if len(self._cache) < _MAX_CACHED_TEXTS:
            self._cache[text] = tokens
        return tokens

    def texts(self, ids: Iterable[int]) -> list[str]:
        """The text that each token adds. A character of several tokens is complete with the last of them."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return [decoder.decode(self._bytes(number)) for number in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._bytes(number) for number in ids).decode("utf-8", "replace")

    def text(self, number: int) -> str:
        """One token on its own, as a vocabulary lists it."""
        return self._bytes(number).decode("utf-8", "replace")

    def _bytes(self, number: int) -> bytes:
        if _FIRST_BYTE <= number < FIRST_WORD:
            return bytes((number - _FIRST_BYTE,))
        at = number - FIRST_WORD
        return self._words[at].encode() if 0 <= at < len(self._words) else b""


def _words(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        yield from _PIECE.findall(text)
    for word in _COMMON.split():
        yield from (word, " " + word)
    for sign in filter(None, _PUNCTUATION):
        yield from (sign, " " + sign)
    for first in " " + ascii_lowercase + ascii_lowercase.upper():
        yield from (first + second for second in ascii_lowercase)
