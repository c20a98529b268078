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


async def test_a_name_whose_addresses_are_all_public_passes() -> None:
    await Addresses(lookup).require_public({"public.example"})


async def test_one_private_address_is_enough_to_refuse() -> None:
    with pytest.raises(InvalidRequestError, match=r"'mixed\.example' has a private address"):
        await Addresses(lookup).require_public({"public.example", "mixed.example"})


@pytest.mark.parametrize("host", ["nowhere.example", f"{'x' * 64}.example"])
async def test_a_name_without_addresses_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequestError, match="were not found: nothing is fetched"):
        await Addresses(lookup).require_public({host})


async def test_a_name_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="were not found"):
        await Addresses().require_public({f"{'x' * 64}.example"})


def test_this_machine_has_a_name() -> None:
    assert set(addresses_of("localhost")) <= {"127.0.0.1", "::1"}


async def test_a_slow_resolver_is_not_waited_for_and_takes_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "LOOKUP_S", 0.05)
    asked: list[str] = []
    go_on = threading.Event()

    def slow(host: str) -> list[str]:
        asked.append(host)
        go_on.wait(10)
        return KNOWN["public.example"]

    one = Addresses(slow)

    told = await asyncio.gather(*(one.require_public({f"h{n}"}) for n in range(20)), return_exceptions=True)

    assert all("within 0.05 s" in str(error) for error in told)
    assert len(asked) == MOST_LOOKUPS
    go_on.set()
    monkeypatch.setattr(addresses, "LOOKUP_S", 5.0)
    await one.require_public({"h20"})  # the threads have given back what they held


def test_an_answer_for_a_worker_that_has_ended_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    faults: list[threading.ExceptHookArgs] = []
    go_on = threading.Event()

    def late(host: str) -> list[str]:
        threads.append(threading.current_thread())
        go_on.wait(10)
        return [host]

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Addresses(late).require_public({"h"}), 0.05)

    monkeypatch.setattr(threading, "excepthook", faults.append)
    asyncio.run(leave())
    go_on.set()
    threads[0].join(10)

    assert not threads[0].is_alive()
    assert faults == []
