"""Is an engine ready, is it alive: HTTP probes, and what they said lately."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from berth.plan import Probe, Replica


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
        self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, replica: Replica, probe: Probe) -> str:
        """Empty for a 2xx answer within the probe's timeout, else what was wrong, in words."""
        try:
            async with asyncio.timeout(probe.timeout_s):
                answer = await self._request(replica, probe)
        except (TimeoutError, httpx.TimeoutException):
            return f"{probe.path} did not answer within {probe.timeout_s:g} s"
        except httpx.ConnectError as error:
            return f"{replica.url} takes no connection: {error}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a key that no header can hold
            return f"{probe.path}: {type(error).__name__}: {error}"
        return "" if answer.is_success else f"{probe.path} answered {answer.status_code}"

    async def _request(self, replica: Replica, probe: Probe) -> httpx.Response:
        url = replica.url.rstrip("/") + probe.path
        return await self._client.request(probe.method, url, headers=self._headers(replica), timeout=probe.timeout_s)

    def _headers(self, replica: Replica) -> dict[str, str]:
        key = self._keys.get(replica.name)
        return {"authorization": f"Bearer {key}"} if key else {}
