"""What the endpoint does with a request that is stopped."""

import asyncio
from collections.abc import Awaitable

from berth.router.exchange.inflight import InflightRequest


async def guarded(request: InflightRequest, work: Awaitable[None]) -> bool:
    """False: the request was stopped before `work` ended."""
    try:
        await work
    except asyncio.CancelledError:
        if not request.resume():
            raise
        return False
    return True
