"""Which requests and answers can be compared, and when a box has time for that; pure."""

from typing import Final

from berth.apis.base import Headers
from berth.canonical import InferenceRequest, Operation
from berth.dialects.choices import expected_choices
from berth.ipc.journal import BROKEN
from berth.ipc.shadow import Skip
from berth.router.exchange.mirrored import Mirrored
from berth.router.exchange.request import CLIENT_GONE, RequestContext
from berth.state import EngineLoad

BODY_BYTES: Final = 256 << 10  # of a request
FULL: Final = 0.9  # of a KV cache
_NO_STORE: Final = b"no-store"


def ineligible(request: InferenceRequest, headers: Headers, size: int) -> Skip | None:
    """Why such a request is not mirrored. `size`: bytes of its body."""
    if request.operation not in (Operation.CHAT, Operation.COMPLETION):
        return Skip.KIND
    if expected_choices(request) > 1 or (request.body.get("best_of") or 1) > 1:
        return Skip.CHOICES
    if _NO_STORE in headers.get(b"cache-control", b"").lower():
        return Skip.NO_STORE
    if size > BODY_BYTES:
        return Skip.TOO_LARGE
    contents = (message.get("content") for message in request.body.get("messages") or ())
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return Skip.MEDIA if any(part.get("type", "text") != "text" for part in parts) else None


def unusable(mirrored: Mirrored, ctx: RequestContext, candidate: str) -> Skip | None:
    """Why the client's answer cannot be compared."""
    if ctx.status == CLIENT_GONE or ctx.inflight.stopped is not None:
        return Skip.CUT
    rules = {
        Skip.FAILED: ctx.status != 200 or bool(ctx.flags & BROKEN),
        Skip.CONTINUED: ctx.continued,
        Skip.SAME_REPLICA: ctx.served_by is not None and ctx.served_by.name == candidate,
        Skip.TOO_LARGE: mirrored.is_large,
        Skip.NO_MEMORY: mirrored.is_refused,
    }
    return next((reason for reason, applies in rules.items() if applies), None)


def is_busy(load: EngineLoad | None) -> bool:
    """As the engine says: requests wait in it, or its KV cache is nearly full."""
    return load is not None and ((load.waiting or 0) > 0 or (load.kv_usage or 0.0) >= FULL)
