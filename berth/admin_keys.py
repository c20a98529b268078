"""The keys of `berth key admin`: each says until when it is valid, signed with a secret of the run directory.

Nothing has to be stored: every router worker can check them, and none outlives the appliance.
"""

import hashlib
import hmac
from typing import Final

PREFIX: Final = "berth-admin-"
LIFETIME_S: Final = 12 * 3600.0


def make(secret: str, ends: float) -> str:
    """A key that is valid until then (Unix seconds)."""
    return f"{PREFIX}{int(ends):x}-{_signature(secret, int(ends))}"


def ends_of(key: bytes, secret: str) -> float | None:
    """Until when the key is valid; None for one that is not made with this secret."""
    if not secret or not key.startswith(PREFIX.encode()):
        return None
    ends, _, signature = key.decode("latin-1").removeprefix(PREFIX).partition("-")
    try:
        moment = int(ends[:16], 16)
    except ValueError:
        return None
    return moment if hmac.compare_digest(signature.encode(), _signature(secret, moment).encode()) else None


def _signature(secret: str, ends: int) -> str:
    return hmac.new(secret.encode(), f"admin {ends:x}".encode(), hashlib.sha256).hexdigest()
