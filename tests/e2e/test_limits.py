"""Limits of keys as the official SDKs see them: which error they raise, what they read from its headers, and whether
they try again. And what a client that floods the server leaves to another one.
"""

import asyncio
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import Any

import anthropic
import ollama
import openai
import pytest

from berth.ipc.journal import Names, Reader
from berth.plan import Keys
from tests.accounts.limits import PER_MINUTE, WORKERS, Bucket, Granted, key_of, limit_of
from tests.accounts.limits import Client as Wanting
from tests.e2e.appliance import Appliance, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SDKS = ("openai", "anthropic", "ollama")
LIMITS = {
    "whole": "requests_per_minute: 1",  # longer than a request waits, and longer than any SDK by itself
    "stream": "requests_per_minute: 1",
    "tokens": "tokens_per_minute: 60",
    "spent": "tokens_per_day: 1",
    "single": "concurrency: 1",
}
FREE = ("flood", "quiet")
RATES = {kind: rate // 3 for kind, rate in PER_MINUTE.items()}  # so that a busy machine can use them up too
WANTING = 12  # clients at a time, each of which wants more than its limit
PLACES = WORKERS  # of the slow engine: each worker has one while all have requests in their queues
FLOOD = 24  # requests at a time
TOKENS = 8


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    keys = [
        f"{kind}-{sdk}: {{key: {key_of(f'{kind}-{sdk}')}, {limit}}}" for kind, limit in LIMITS.items() for sdk in SDKS
    ]
    keys += [f"{name}: {{key: {key_of(name)}}}" for name in FREE]
    keys += [f"{kind}: {{key: {key_of(kind)}, {limit_of(kind, rate)}}}" for kind, rate in RATES.items()]
    slow = sim_models("slow", "vllm --itl 20ms --context 10000", concurrency=str(PLACES))
    models = f"{sim_models('m', 'vllm --itl 0')}\n{slow}"
    with Appliance(models, BERTH_WORKERS=str(WORKERS), BERTH_API_KEYS="\n".join(keys)) as appliance:
        appliance.http.headers["authorization"] = f"Bearer {key_of('quiet')}"
        yield appliance.wait_ready()


class Openai(openai.OpenAI):
    """Does not wait between its tries, but notes how long it would have."""

    waits: list[float]

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        timeout = self._calculate_retry_timeout(max_retries - retries_taken, options, response.headers)
        self.waits.append(timeout)


class Anthropic(anthropic.Anthropic):
    waits: list[float]

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        timeout = self._calculate_retry_timeout(max_retries - retries_taken, options, response.headers)
        self.waits.append(timeout)


class Client:
    """One SDK, whose requests are alike."""

    def __init__(self, berth: Appliance, sdk: str, kind: str) -> None:
        key = key_of(f"{kind}-{sdk}")
        self._sdk = sdk
        self._openai = Openai(base_url=f"{berth.url}/v1", api_key=key, max_retries=2)
        self._anthropic = Anthropic(base_url=berth.url, api_key=key, max_retries=2)
        self._ollama = ollama.Client(host=berth.url, headers={"authorization": f"Bearer {key}"})
        self.waits = self._openai.waits = self._anthropic.waits = []

    def close(self) -> None:
        self._openai.close()
        self._anthropic.close()
        self._ollama.close()  # type: ignore[no-untyped-call] # of the SDK

    def ask(self, *, stream: bool = False, model: str = "m", tokens: int = 2) -> Any:
        """The answer, or the stream of it."""
        messages: Any = [{"role": "user", "content": "Hello"}]
        made: Any
        if self._sdk == "openai":
            made = self._openai.chat.completions.create(
                model=model, messages=messages, max_tokens=tokens, stream=stream
            )
        elif self._sdk == "anthropic":
            made = self._anthropic.messages.create(model=model, messages=messages, max_tokens=tokens, stream=stream)
        else:
            options = {"num_predict": tokens}
            if stream:
                return self._ollama.generate(model, "Hello", stream=True, options=options)
            return self._ollama.generate(model, "Hello", options=options).response
        return made

    def refused(self, **options: Any) -> Any:
        """The error of a request beyond the limit, in the SDK's own class."""
        kinds: dict[str, type[Exception]] = {
            "openai": openai.RateLimitError,
            "anthropic": anthropic.RateLimitError,
            "ollama": ollama.ResponseError,
        }
        with pytest.raises(kinds[self._sdk]) as raised:
            list(self.ask(**options))  # Ollama's sends the request of a stream when the first part is read
        assert raised.value.status_code == 429  # type: ignore[attr-defined] # all three have it
        return raised.value


ClientOf = Callable[[str, str], Client]


@pytest.fixture
def client_of(berth: Appliance) -> Iterator[ClientOf]:
    """An SDK with the key of a kind."""
    with ExitStack() as stack:

        def make(sdk: str, kind: str) -> Client:
            return stack.enter_context(closing(Client(berth, sdk, kind)))

        yield make


@pytest.mark.parametrize("kind", ["whole", "stream"])
@pytest.mark.parametrize("sdk", SDKS)
def test_beyond_a_rate_sdks_try_again_when_the_server_says(client_of: ClientOf, sdk: str, kind: str) -> None:
    client = client_of(sdk, kind)
    client.ask()

    error = client.refused(stream=kind == "stream")

    if sdk == "ollama":  # it never tries again
        assert "limit of 1 requests per minute" in error.error
        return
    headers = error.response.headers
    assert len(client.waits) == 2
    assert all(8 < wait_s <= 60 for wait_s in client.waits)  # an SDK's own pauses have at most 8 s
    assert int(headers["retry-after"]) - 1 <= float(headers["retry-after-ms"]) / 1000 <= client.waits[0]
    name = "x-ratelimit-remaining-requests" if sdk == "openai" else "anthropic-ratelimit-requests-remaining"
    assert headers[name] == "0"
    if sdk == "openai":
        assert error.code == "rate_limit_exceeded"
    else:
        assert error.body["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("sdk", SDKS)
def test_a_rate_of_tokens_is_one_of_its_own(client_of: ClientOf, sdk: str) -> None:
    client = client_of(sdk, "tokens")
    client.ask(tokens=200)  # which takes long to pay
    error = client.refused()
    assert "limit of 60 tokens per minute" in str(error)
    if sdk != "ollama":
        assert len(client.waits) == 2


@pytest.mark.parametrize("sdk", SDKS)
def test_a_spent_budget_is_not_tried_again(client_of: ClientOf, sdk: str) -> None:
    client = client_of(sdk, "spent")
    client.ask()

    errors = [client.refused(), client.refused(stream=True)]

    assert client.waits == []
    for error in errors:
        assert "has used its 1 tokens of this day. The next one begins at " in str(error)
        if sdk != "ollama":
            assert error.response.headers["x-should-retry"] == "false"
            assert "retry-after" not in error.response.headers
        if sdk == "openai":
            assert error.code == "insufficient_quota"


@pytest.mark.parametrize("sdk", SDKS)
def test_a_request_too_many_at_a_time_waits_for_its_place(client_of: ClientOf, sdk: str) -> None:
    """A stream of the same key has the only place, until its client leaves."""
    client = client_of(sdk, "single")
    held = client.ask(stream=True, model="slow", tokens=9000)
    next(iter(held))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.ask)
        assert not wait([answer], timeout=0.5).done
        held.close()
        assert answer.result(timeout=60)
    assert client.waits == []  # the SDK had nothing to repeat


@pytest.mark.parametrize("kind", RATES)
def test_limits_are_used_up_and_not_exceeded_over_the_workers(berth: Appliance, kind: str) -> None:
    """Nothing of the rate is lost while clients want it, and what the workers count is what the clients got."""
    wanting = Wanting(berth, kind, stream=kind == "tokens")

    async def used_up(answers: int) -> Bucket:
        """By all workers, and after so many answers."""
        while (bucket := Bucket.of(berth, kind)).level > 0 or len(wanting.answers) < answers:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
        return bucket if len(bucket.taken) == WORKERS else await used_up(answers + 1)

    async def want() -> tuple[Bucket, Bucket]:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wanting.run(WANTING, enough))
            first = await used_up(0)
            last = await used_up(len(wanting.answers) + WANTING)
            enough.set()
        return first, last

    first, last = asyncio.run(want())
    got = sum(Granted.of(kind, wanting.answers).amounts)
    assert {one.status for one in wanting.answers} <= {200, 429}
    # the end of the last request is counted after its client has it
    berth.wait(lambda: sum(Bucket.of(berth, kind).taken) * RATES[kind] / 60 == pytest.approx(got))
    assert first.lost == last.lost
    if kind == "requests":  # those of tokens may have cost more than was expected of them, which is owed then
        assert Bucket.of(berth, kind).level >= 0


def test_a_client_that_floods_the_server_hardly_delays_another(berth: Appliance) -> None:
    """In order of arrival a request of the quiet client would wait for all those of the other one that are there."""
    enough = threading.Event()

    def ask(name: str) -> int:
        body = {"model": "slow", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}
        headers = {"authorization": f"Bearer {key_of(name)}"}
        return berth.http.post("/v1/chat/completions", json=body, headers=headers, timeout=120).status_code

    def flood() -> int:
        count = 0
        while not enough.is_set():
            assert ask("flood") == 200
            count += 1
        return count

    with ThreadPoolExecutor(FLOOD) as pool:
        running = [pool.submit(flood) for _ in range(FLOOD)]
        try:
            berth.wait(lambda: len(queued(berth, "flood")) > FLOOD)
            assert [ask("quiet") for _ in range(7)] == [200] * 7
        finally:
            enough.set()
        assert sum(one.result() for one in running) > FLOOD

    flooding, quiet = queued(berth, "flood"), queued(berth, "quiet")
    overtaken = [sum(came < begun < ends for _, begun in flooding) for came, ends in quiet]
    waits_s = [statistics.median(ends - came for came, ends in found) for found in (quiet, flooding)]
    assert len(overtaken) == 7
    assert statistics.median(overtaken) <= FLOOD / 2  # in order of arrival it is as many as wait
    assert waits_s[0] < waits_s[1] / 2


def queued(berth: Appliance, key: str) -> list[tuple[float, float]]:
    """When the requests of a key for the slow model have come, and when an engine got them."""
    names = Names(berth.plan(), Keys.from_json(berth.paths.keys.read_bytes()).names())
    with closing(Reader(berth.paths.journal, names)) as reader:
        records = [one for one in reader.finished() if (one.key, one.model) == (key, "slow")]
    return [(one.start, one.start + one.queue_s) for one in records]
