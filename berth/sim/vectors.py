"""Deterministic embeddings: the same tokens give the same unit vector in every process."""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence


def unit_vector(ids: Sequence[int], dimensions: int) -> list[float]:
    """Values as a 32-bit float holds them, so that the list and its base64 form are equal."""
    seed = b"".join(number.to_bytes(8, "little", signed=True) for number in ids)
    digest = hashlib.shake_256(seed).digest(dimensions * 2)
    raw = [number + 0.5 for number in struct.unpack(f"<{dimensions}h", digest)]  # never all zero
    length = math.hypot(*raw)
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(value / length for value in raw))))


def as_base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
