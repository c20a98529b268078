"""Addresses of hosts that clients refer to: an engine may fetch from them only if all of them are public.

The engine looks them up again when it fetches. The owner of a name can return other addresses then; a list of
hosts (BERTH_FETCH_HOSTS) prevents that.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from berth.dialects.requests.references import is_public, refuse_private
from berth.errors import InvalidRequestError

LOOKUP_S = 5.0  # all names of a request
MOST_LOOKUPS = 16  # at once

Lookup = Callable[[str], Iterable[str]]


def addresses_of(host: str) -> list[str]:
    """OSError, or UnicodeError for a name that cannot be one."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Addresses:
    """`lookup` blocks, and runs in daemon threads: a resolver may take half a minute."""

    def __init__(self, lookup: Lookup = addresses_of) -> None:
        self._lookup = lookup
        self._slots = asyncio.Semaphore(MOST_LOOKUPS)

    async def require_public(self, hosts: Iterable[str]) -> None:
        """InvalidRequestError for a host with an address that is not public, or whose addresses are not found."""
        ends = asyncio.get_running_loop().time() + LOOKUP_S
        for host in sorted(hosts):
            try:
                async with asyncio.timeout_at(ends):
                    found = await self._found(host)
            except TimeoutError as exc:
                raise _unknown(host, f"not found within {LOOKUP_S:g} s") from exc
            if isinstance(found, Exception):
                raise _unknown(host, "not found") from found
            if not found or not all(is_public(ip_address(address)) for address in found):
                refuse_private(host)

    async def _found(self, host: str) -> list[str] | Exception:
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[str] | Exception] = loop.create_future()

        def deliver(found: list[str] | Exception) -> None:
            self._slots.release()
            if not result.done():
                result.set_result(found)

        def look() -> None:
            found: list[str] | Exception
            try:
                found = list(self._lookup(host))
            except (OSError, UnicodeError) as exc:
                found = exc
            try:
                loop.call_soon_threadsafe(deliver, found)
            except RuntimeError:  # the loop is closed: the worker has ended
                return

        threading.Thread(target=look, name="lookup", daemon=True).start()
        return await result


def _unknown(host: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The addresses of {host[:80]!r} were {reason}: nothing is fetched from such a host, unless BERTH_FETCH_HOSTS "
        "names it. Send the content itself, as 'data:image/png;base64,...'."
    )
