"""The requests to one attached server that is asked what it is."""

import time

import httpx

from berth.boot.planner.attached.address import Address
from berth.dialects.attached.detection import Answer, Discovery, identify

TIMEOUT_S = 2.0  # for all requests to one server together
MOST_BYTES = 4 << 20  # of an answer


def discover(address: Address) -> Discovery:
    headers = {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    ends = time.monotonic() + TIMEOUT_S
    with httpx.Client(headers=headers, trust_env=False) as client:
        seen: dict[str, Answer | None] = {}

        def get(path: str) -> Answer | None:
            if path not in seen:
                seen[path] = _get(client, address.url + path, ends - time.monotonic())
            return seen[path]

        return identify(get, httpx.URL(address.url).host, address.api_paths, address.name)


def _get(client: httpx.Client, url: str, timeout_s: float) -> Answer | None:
    if timeout_s <= 0:
        return None
    body = bytearray()
    ends = time.monotonic() + timeout_s
    try:
        with client.stream("GET", url, timeout=timeout_s) as response:
            for part in response.iter_bytes():
                body += part
                if len(body) > MOST_BYTES or time.monotonic() > ends:
                    return None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None
    return Answer.of(response.status_code, response.headers, bytes(body))
