"""Is an engine ready, is it alive: HTTP probes, and what they said lately."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from berth.plan import Probe, Replica

STATE_TIMEOUT_S = 5.0
LONGEST_ANSWER_BYTES = 4 << 20  # an attached server's list of hundreds of models takes less than 1 MiB
LOCAL = "http://localhost"  # how an engine behind a socket is addressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes of one run of a replica said."""

    answered: bool = False  # the last probe was answered with 2xx
    ever: bool = False  # one of them was
    failures: int = 0  # in a row, up to now
    error: str = ""  # what was wrong with the last one


def after_probe(health: Health, error: str) -> Health:
    """`error` as `Prober.ask` returns it."""
    failures = health.failures + 1 if error else 0
    return Health(answered=not error, ever=health.ever or not error, failures=failures, error=error)


class Prober:
    """Asks engines; never raises. Each probe has a connection of its own: engines close idle ones after 5 s."""

    def __init__(self, upstream_keys: Mapping[str, str] | None = None) -> None:
        self._keys = dict(upstream_keys or {})
        self._clients = {"": _client("")}  # by the path of the socket; "": the one for all that have a port

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def ask(self, replica: Replica, probe: Probe) -> str:
        """Empty for a 2xx answer within the probe's timeout, else what was wrong, in words."""
        answer = await self._answer(replica, probe.method, probe.path, None, probe.timeout_s)
        return answer if isinstance(answer, str) else _wrong(probe.path, answer[0])

    async def tell(self, replica: Replica, path: str, body: Mapping[str, object], timeout_s: float) -> str:
        """The same for a POST with a JSON body; without one where that is empty."""
        answer = await self._answer(replica, "POST", path, body or None, timeout_s)
        return answer if isinstance(answer, str) else _wrong(path, answer[0])

    async def sleeps(self, replica: Replica, path: str, timeout_s: float = STATE_TIMEOUT_S) -> bool | None:
        """What GET of the path says as {"is_sleeping": ...}; None where it says nothing."""
        answer = await self._answer(replica, "GET", path, None, timeout_s)
        try:
            found = None if isinstance(answer, str) or _wrong(path, answer[0]) else json.loads(answer[1])
        except (ValueError, RecursionError):
            return None
        return found["is_sleeping"] is True if isinstance(found, dict) and "is_sleeping" in found else None

    async def _answer(
        self, replica: Replica, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> tuple[int, bytes] | str:
        """The status and body of the answer, or why there is none."""
        socket, key = replica.socket_path, self._keys.get(replica.name)
        if socket not in self._clients:
            self._clients[socket] = _client(socket)
        url = (LOCAL if socket else replica.url.rstrip("/")) + path
        headers = {"authorization": f"Bearer {key}"} if key else {}
        client = self._clients[socket]
        try:
            async with (
                asyncio.timeout(timeout_s),
                client.stream(method, url, headers=headers, json=body, timeout=timeout_s) as answer,
            ):
                read = await _read(answer)
            return f"{path} answered more than {LONGEST_ANSWER_BYTES >> 20} MiB" if read is None else read
        except (TimeoutError, httpx.TimeoutException):
            return f"{path} did not answer within {timeout_s:g} s"
        except httpx.ConnectError as error:
            return f"{replica.url} takes no connection: {error}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a key that no header can hold
            return f"{path}: {type(error).__name__}: {error}"


def _client(socket: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=0)
    transport = httpx.AsyncHTTPTransport(verify=not socket, uds=socket or None, limits=limits)
    return httpx.AsyncClient(transport=transport, trust_env=False, headers={"accept-encoding": "identity"})


async def _read(answer: httpx.Response) -> tuple[int, bytes] | None:
    """None for a body that does not end. As it came: a small one may be unpacked to any size."""
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > LONGEST_ANSWER_BYTES:
            return None
    return answer.status_code, bytes(body)


def _wrong(path: str, status: int) -> str:
    return "" if httpx.codes.is_success(status) else f"{path} answered {status}"
