"""The real vLLM, on the CPU, in the image: chat, stream, stop."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from tests.image.container import TINY, TINY_MODEL, WITH_MODEL, Container

pytestmark = [pytest.mark.image, pytest.mark.timeout(300), pytest.mark.usefixtures("vllm")]

STOP_S = 15.0
STREAMS = 32


@pytest.fixture(scope="module")
def berth() -> Iterator[Container]:
    with Container(f"tiny={TINY}", options=WITH_MODEL) as container:
        yield container.wait_ready(600)


@pytest.fixture(scope="module")
def paragraph() -> str:
    """What the tiny model says."""
    return str(json.loads((TINY_MODEL / "script.json").read_text())["paragraph"])


def client(berth: Container) -> OpenAI:
    return OpenAI(base_url=f"{berth.http.base_url}/v1", api_key="none", max_retries=0, timeout=60)


def test_vllm_is_chosen_for_the_cpu(berth: Container) -> None:
    (replica,) = berth.replicas().values()
    assert (replica["engine"], replica["gpus"]) == ("vllm", [])


def test_a_chat(berth: Container, paragraph: str) -> None:
    answer = client(berth).chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].message.content == paragraph


def test_a_stream(berth: Container, paragraph: str) -> None:
    stream = client(berth).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == paragraph
    assert len(parts) > 5


def test_engine_listens_on_loopback_only(berth: Container) -> None:
    argv = berth.find("serve").argv
    assert argv[argv.index("--uds") + 1] == "/run/berth/tiny-vllm.sock"
    assert not {"--host", "--port"} & set(argv)
    assert berth.execute("stat", "-c", "%F", "/run/berth/tiny-vllm.sock").strip() == "socket"


def test_z_stop_under_load_is_in_time_and_reported_to_the_clients(berth: Container) -> None:
    """The last one: the container is gone after it. Together the streams need longer than the drain, however fast the
    machine is.
    """
    first = threading.Barrier(STREAMS + 1, timeout=60)

    def last_line() -> str:
        with berth.stream("tiny", max_tokens=4000, ignore_eos=True) as lines:
            next(lines)
            first.wait()
            *_, last = lines
        return last

    with ThreadPoolExecutor(STREAMS) as pool:
        ends = [pool.submit(last_line) for _ in range(STREAMS)]
        first.wait()
        assert berth.stop() < STOP_S
        lasts = [end.result() for end in ends]
    broken_off = [last for last in lasts if '"error"' in last]
    assert broken_off
    assert {*lasts} - {*broken_off} <= {"data: [DONE]"}
    assert berth.wait_ended() == 0
