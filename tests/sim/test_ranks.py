"""A simulated engine on several boxes."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from berth.sim.options import parse_options
from berth.sim.ranks import Meeting, follow
from tests.e2e.appliance import wait_for
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port

pytestmark = pytest.mark.timeout(90)


@contextmanager
def rank(number: int, meeting: int, port: int, dialect: str = "vllm") -> Iterator["subprocess.Popen[bytes]"]:
    words = ["--dialect", dialect, "--port", str(port), "--nnodes", "2", "--node-rank", str(number)]
    words += ["--dist-init-addr", f"127.0.0.1:{meeting}"]
    with subprocess.Popen([sys.executable, "-m", "berth", "sim", *words], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def healthy(port: int) -> bool:
    try:
        found = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, verify=NO_AUTHORITIES)
    except httpx.TransportError:
        return False
    return found.status_code == 200


def test_the_head_waits_for_the_other_rank_and_hangs_without_it() -> None:
    """As vLLM: its health page is the last to notice."""
    meeting, port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/v1/completions"
    with rank(0, meeting, port) as head, rank(1, meeting, free_port()) as other:
        wait_for(lambda: healthy(port), 60, lambda: f"exit code {head.poll()}")
        client = httpx.Client(trust_env=False, verify=NO_AUTHORITIES, timeout=60)
        with client:
            assert client.post(url, json={"model": "sim", "prompt": "a", "max_tokens": 1}).status_code == 200
            other.kill()
            other.wait()

            def hangs() -> bool:
                try:
                    client.post(url, json={"model": "sim", "prompt": "a", "max_tokens": 1}, timeout=1)
                except httpx.ReadTimeout:
                    return True
                return False

            wait_for(hangs, 60, lambda: "it still answers")
        assert healthy(port)


@pytest.mark.anyio
async def test_a_rank_of_another_start_is_not_let_in() -> None:
    gone: list[str] = []
    port = free_port()
    meeting = Meeting(1, lambda: gone.append("a rank"))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(follow("127.0.0.1", port))  # before the head listens
        listener = await meeting.wait("127.0.0.1", port)
        late = tasks.create_task(follow("127.0.0.1", port))
        await asyncio.sleep(0)
        assert gone == []
        late.cancel()
        first.cancel()
    while not gone:  # noqa: ASYNC110 - the head learns it from its connection
        await asyncio.sleep(0.01)
    assert gone == ["a rank"]
    listener.close()


@pytest.mark.parametrize(
    "words",
    [
        ["--nnodes", "2"],
        ["--nnodes", "2", "--node-rank", "2", "--dist-init-addr", "127.0.0.1:1"],
        ["--nnodes", "2", "--dist-init-addr", "nothing"],
        ["--nnodes", "2", "--dist-init-addr", "127.0.0.1:1", "--dialect", "trtllm"],
    ],
)
def test_ranks_without_a_place_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_an_address_may_have_colons() -> None:
    options = parse_options(["--nnodes", "2", "--dist-init-addr", "[::1]:29501"])
    assert (options.nodes, options.node_rank, options.meeting) == (2, 0, ("::1", 29501))
