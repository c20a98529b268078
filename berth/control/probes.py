"""HTTP requests to engines (readiness and liveness probes, sleep calls), and the recent results of the probes."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from berth.plan import Probe, Replica

STATE_TIMEOUT_S = 5.0
MAX_RESPONSE_BYTES = 4 << 20  # an attached server's list of hundreds of models takes less than 1 MiB
LOCAL = "http://localhost"  # base URL of an engine behind a socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # the names in lower case

    @property
    def ok(self) -> bool:
        return httpx.codes.is_success(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The probe results since one start of a replica."""

    ok: bool = False  # the last probe succeeded
    ever_ok: bool = False
    failures: int = 0  # consecutive, up to now
    error: str = ""  # of the last probe
    loading: bool = False  # the error is that it is not ready yet


def after_probe(health: Health, error: str, *, loading: bool = False) -> Health:
    """`error` as `Prober.probe` returns it."""
    failures = health.failures + 1 if error else 0
    return Health(ok=not error, ever_ok=health.ever_ok or not error, failures=failures, error=error, loading=loading)


class Prober:
    """Never raises. Every request opens its own connection, because engines close idle ones after 5 s."""

    def __init__(self, upstream_keys: Mapping[str, str] | None = None) -> None:
        self._keys = dict(upstream_keys or {})
        self._clients: dict[str, httpx.AsyncClient] = {}  # by socket path; "http" and "https" for engines with a port

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def probe(self, replica: Replica, probe: Probe) -> str:
        """The error. It is "" for a 2xx response within the probe's timeout."""
        return _error(probe.path, await self.request(replica, probe.method, probe.path, None, probe.timeout_s))

    async def post(self, replica: Replica, path: str, body: Mapping[str, object], timeout_s: float) -> str:
        """The same for a POST with a JSON body; no body if it is empty."""
        content = json.dumps(body).encode() if body else None
        return _error(path, await self.request(replica, "POST", path, content, timeout_s))

    async def is_sleeping(self, replica: Replica, path: str, timeout_s: float = STATE_TIMEOUT_S) -> bool | None:
        """From a response {"is_sleeping": ...}. None for any other response."""
        response = await self.request(replica, "GET", path, None, timeout_s)
        try:
            content = None if isinstance(response, str) or not response.ok else json.loads(response.body)
        except (ValueError, RecursionError):
            return None
        return content["is_sleeping"] is True if isinstance(content, dict) and "is_sleeping" in content else None

    async def request(
        self, replica: Replica, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> Response | str:
        """The response, or the error. `body`: JSON."""
        socket, key = replica.socket_path, self._keys.get(replica.name)
        client = socket or ("http" if replica.url.startswith("http://") else "https")
        if client not in self._clients:  # to read the authorities for TLS takes 20 ms
            self._clients[client] = _client(socket, tls=client == "https")
        url = (LOCAL if socket else replica.url.rstrip("/")) + replica.path(path)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if replica.launch is None:  # it may be a Berth, whose fallback is this one: as the router's requests
            headers["x-berth-hops"] = "1"
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._clients[client].stream(method, url, headers=headers, content=body, timeout=timeout_s) as response,
            ):
                content = await _read(response)
            return content or f"{path} returned more than {MAX_RESPONSE_BYTES >> 20} MiB"
        except (TimeoutError, httpx.TimeoutException):
            return f"{path} timed out after {timeout_s:g} s"
        except httpx.ConnectError as error:
            return f"cannot connect to {replica.url}: {error}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a key that no header can hold
            return f"{path}: {type(error).__name__}: {error}"


def _client(socket: str, *, tls: bool) -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=0)
    transport = httpx.AsyncHTTPTransport(verify=tls, uds=socket or None, limits=limits)
    return httpx.AsyncClient(transport=transport, trust_env=False, headers={"accept-encoding": "identity"})


async def _read(response: httpx.Response) -> Response | None:
    """None for a body over the limit. The bytes as sent: a small body may decompress to any size."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_RESPONSE_BYTES:
            return None
    return Response(status=response.status_code, body=bytes(body), headers=response.headers)


def _error(path: str, response: Response | str) -> str:
    if isinstance(response, str):
        return response
    return "" if response.ok else f"{path} returned {response.status}"
