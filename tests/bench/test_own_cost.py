"""What the router adds, from pairs of requests whose times are known."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from berth.bench import own_cost as module
from berth.bench.client import EngineClient
from berth.bench.measure import Conditions
from berth.bench.own_cost import LEAST_PAIRS, MOST_PAIRS, own_cost
from berth.bench.plan_points import Profile
from berth.bench.window import Sample
from berth.bench.workload import Ask, parse
from berth.plan import Replica
from berth.records.results import OwnCost, Slo
from tests.fakes import certificates
from tests.fakes.plans import make_plan, make_replica
from tests.sim.harness import running


class Way:
    """Its times are those that it is told; no time passes."""

    def __init__(self, name: str, sent: list[str], ttft_s: float, tpot_s: float, errors: Iterator[str]) -> None:
        self._name, self._sent, self._ttft_s, self._tpot_s, self._errors = name, sent, ttft_s, tpot_s, errors

    async def ask(self, ask: Ask, sample: Sample) -> None:
        sample.error = next(self._errors)
        self._sent.append(self._name)
        first = sample.scheduled + self._ttft_s + 1e-6 * len(self._sent)
        sample.frames.extend(first + self._tpot_s * number for number in range(ask.tokens))
        sample.tokens = ask.tokens


def measured(sent: list[str], limit_s: float = 600.0, tokens: int = 4, errors: Iterator[str] | None = None) -> OwnCost:
    direct = Way("d", sent, 0.05, 0.01, repeat(""))
    router = Way("r", sent, 0.052, 0.01, errors or repeat(""))
    asks = repeat(Ask(prompt=(1, 2), tokens=tokens))
    return asyncio.run(own_cost(direct, router, asks, limit_s))


def test_difference_of_pairs_is_found_with_its_interval() -> None:
    sent = list[str]()
    found = measured(sent)
    assert (found.problem, found.pairs) == ("", MOST_PAIRS)
    assert found.ttft
    assert found.ttft.mean == pytest.approx(0.002, abs=1e-5)
    assert found.ttft.low < found.ttft.mean < found.ttft.high
    assert found.ttft.measurable
    assert found.tpot
    assert found.tpot.mean == pytest.approx(0, abs=1e-6)
    assert "".join(sent[:7]) == "rddrdrd"  # admitted; then each prompt once before, and the ways in turn


def in_front_of(port: int, folder: Path) -> tuple[ssl.SSLContext, Callable[..., Coroutine[Any, Any, None]]]:
    """What speaks TLS for the server at this port, with a certificate of another name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates.make(folder))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the client has gone
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    return context, serve


CONDITIONS = Conditions(
    workload=parse("16/3"),
    slo=Slo(),
    profile=Profile(closed_s=0.5),
    seed=1,
    vocab_size=32000,
    progress=lambda _: None,
)


async def cost_at(host: str, port: int, replica: Replica) -> OwnCost:
    direct = EngineClient(replica)
    plan = make_plan("/run", replica)
    plan = replace(plan, listen=replace(plan.listen, host=host, port=port, tls_cert="cert.pem"))
    try:
        return await module.measured(direct, "key", plan, "sim", CONDITIONS)
    finally:
        direct.close()


@pytest.mark.timeout(120)
def test_a_router_with_tls_is_measured_on_the_loopback_interface(tmp_path: Path) -> None:
    async def scene(engine: int) -> tuple[OwnCost, OwnCost]:
        replica = replace(make_replica(launch=None, port=engine), served_name="sim")
        context, serve = in_front_of(engine, tmp_path)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            found = await cost_at("0.0.0.0", port, replica), await cost_at("192.0.2.7", port, replica)
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - connections that end
                await asyncio.sleep(0.02)
            return found

    with running("vllm") as server:
        found, elsewhere = asyncio.run(scene(server.port))
    assert (found.problem, found.pairs >= LEAST_PAIRS, found.ttft is not None) == ("", True, True)
    assert elsewhere.problem.startswith("the router speaks TLS on 192.0.2.7 alone")
    assert not module.is_loopback("box.example")


def test_answers_of_one_token_have_no_time_per_token() -> None:
    assert measured([], tokens=1).tpot is None


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        (repeat("status 503: leased"), "the router does not pass a request on: status 503: leased"),
        (iter(["not yet", "", "", "broken"]), "a request failed: broken"),
    ],
)
def test_what_fails_is_said(monkeypatch: pytest.MonkeyPatch, errors: Iterator[str], problem: str) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0)
    assert measured([], errors=errors).problem == problem


def test_too_little_time_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGER_S", 0.0)
    assert measured([], limit_s=0).problem == f"0 pairs of requests within 0 s, {LEAST_PAIRS} are needed"
