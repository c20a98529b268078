import asyncio
import threading
from collections.abc import Iterable

import pytest

from berth.errors import InvalidRequestError
from berth.router.exchange import addresses
from berth.router.exchange.addresses import MOST_LOOKUPS, Addresses, addresses_of

pytestmark = pytest.mark.anyio
KNOWN = {"public.example": ["93.184.215.14", "2606:4700::1111"], "mixed.example": ["93.184.215.14", "10.0.0.1"]}


def lookup(host: str) -> Iterable[str]:
    if host not in KNOWN:
        raise OSError(-2, "Name or service not known")
    return KNOWN[host]


async def test_accepts_hosts_with_public_addresses_only() -> None:
    await Addresses(lookup).require_public({"public.example"})


async def test_rejects_hosts_with_one_private_address() -> None:
    with pytest.raises(InvalidRequestError, match=r"'mixed\.example' has a private address"):
        await Addresses(lookup).require_public({"public.example", "mixed.example"})


@pytest.mark.parametrize("host", ["nowhere.example", f"{'x' * 64}.example"])
async def test_rejects_hosts_without_addresses(host: str) -> None:
    with pytest.raises(InvalidRequestError, match="were not found: nothing is fetched"):
        await Addresses(lookup).require_public({host})


async def test_rejects_invalid_host_names() -> None:
    with pytest.raises(InvalidRequestError, match="were not found"):
        await Addresses().require_public({f"{'x' * 64}.example"})


def test_looks_up_localhost() -> None:
    assert set(addresses_of("localhost")) <= {"127.0.0.1", "::1"}


async def test_slow_resolver_times_out_and_uses_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "LOOKUP_S", 0.05)
    asked: list[str] = []
    released = threading.Event()

    def slow(host: str) -> list[str]:
        asked.append(host)
        released.wait(10)
        return KNOWN["public.example"]

    one = Addresses(slow)

    results = await asyncio.gather(*(one.require_public({f"h{n}"}) for n in range(20)), return_exceptions=True)

    assert all("within 0.05 s" in str(error) for error in results)
    assert len(asked) == MOST_LOOKUPS
    released.set()
    monkeypatch.setattr(addresses, "LOOKUP_S", 5.0)
    await one.require_public({"h20"})  # the threads have given back what they held


def test_drops_results_of_lookups_after_the_worker_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    faults: list[threading.ExceptHookArgs] = []
    released = threading.Event()

    def late(host: str) -> list[str]:
        threads.append(threading.current_thread())
        released.wait(10)
        return [host]

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Addresses(late).require_public({"h"}), 0.05)

    monkeypatch.setattr(threading, "excepthook", faults.append)
    asyncio.run(leave())
    released.set()
    threads[0].join(10)

    assert not threads[0].is_alive()
    assert faults == []
