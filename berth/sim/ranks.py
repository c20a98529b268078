"""An engine on several boxes: its ranks meet at an address of the head before it loads.

As real engines, the head answers its health page when another rank is gone, and its requests hang; and a rank whose
head is gone keeps running.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

_RETRY_S = 0.05


class Meeting:
    """Of the head: the connections of the other ranks. `gone` is called when one of them ends."""

    def __init__(self, others: int, gone: Callable[[], None]) -> None:
        self._others = others
        self._gone = gone
        self._present = 0
        self._complete = asyncio.Event()

    async def wait(self, host: str, port: int) -> asyncio.Server:
        """Until all ranks are there. Those that come later get no answer: they belong to another start. The listener
        is left to the caller.
        """
        listener = await asyncio.start_server(self._join, host, port)
        await self._complete.wait()
        return listener

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._complete.is_set():
            await reader.read()
            writer.close()
            return
        self._present += 1
        if self._present == self._others:
            self._complete.set()
        with suppress(OSError, asyncio.CancelledError):  # cancelled at the end of the process alone
            await reader.read()
        writer.close()
        self._gone()


async def follow(host: str, port: int) -> None:
    """Of the other ranks: it joins the head, and returns when that is gone."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            break
        except OSError:
            await asyncio.sleep(_RETRY_S)
    try:
        with suppress(OSError):
            await reader.read()
    finally:
        writer.close()
