"""An engine whose answers differ from the text at a known share of the tokens, each time at the same ones. Pure."""

import zlib

from berth.sim.tokenizer import FIRST_WORD

_HASHES = 1 << 32


def other(token: int, position: int, share: float, seed: int) -> int | None:
    """The token that such an engine has in place of this one. None: it has this one. Only words are replaced."""
    if token < FIRST_WORD or zlib.crc32(b"%d %d %d" % (seed, position, token)) >= share * _HASHES:
        return None
    return token - 1 if token > FIRST_WORD else token + 1
