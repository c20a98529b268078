"""How the streams of each API end and what waiting clients get, over the wire, judged by the official clients."""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import IncompleteGenerationError

from berth.apis.base import NDJSON
from berth.apis.stream_events import ANTHROPIC, CHAT, HEARTBEAT_S, MEDIA, OLLAMA, RESPONSES, STREAMS, TGI, StreamEvents
from berth.router.forwarding.stream import TICK_S
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats
from berth.router.worker import POLL_S
from berth.sse import DONE
from berth.state import Progress, ReplicaStatus
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import CLOSE, LAST_CHUNK, FakeUpstream, Request, Step, chunk, sse, stream_head

HELLO: Any = [{"role": "user", "content": "hello"}]
SOUND = ("a.wav", b"RIFF")
SILENCE_S = 2 * TICK_S + 0.5  # one heartbeat comes


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        yield engine


@pytest.fixture(scope="module")
def router(engine: FakeUpstream) -> Iterator[RouterProcess]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    limits = replace(LIMITS, token_timeout_s=30, first_token_timeout_s=10, client_stall_timeout_s=30)
    plan = make_plan(run_dir, [replica("m-a", engine.url)], limits=limits)
    publish(plan)
    router = RouterProcess(plan)
    router.await_answer()
    yield router
    assert router.stop() == 0
    shutil.rmtree(run_dir)


def speaks(*between: Step, end: tuple[Step, ...] = ()) -> Callable[[Request], tuple[Step, ...]]:
    """Says "a", then "b" and the end, or `end`."""

    def steps(request: Request) -> tuple[Step, ...]:
        chat, media = b'"messages"' in request.body, "/audio/" in request.path

        def frame(text: str = "", finish: str | None = None) -> bytes:
            said = {"delta": {"content": text}} if chat or media else {"text": text}
            head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            return chunk(sse({**head, "choices": [{"index": 0, **said, "finish_reason": finish}]}))

        whole = (frame("b"), frame(finish="stop"), chunk(DONE), LAST_CHUNK)
        return stream_head(), frame("a"), *between, *(end or whole)

    return steps


def chat(url: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        return "".join(part.choices[0].delta.content or "" for part in stream)


def transcription(url: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as client:
        *_, last = client.audio.transcriptions.create(model="m", file=SOUND, stream=True)
        assert last.type == "transcript.text.done"
        return last.text


def response(url: str) -> str:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as client,
        client.responses.stream(model="m", input="hello") as stream,
    ):
        found = stream.get_final_response()
    return found.output_text


def message(url: str) -> str:
    with (
        anthropic.Anthropic(base_url=url, api_key="x", max_retries=0, timeout=30) as client,
        client.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream,
    ):
        return stream.get_final_text()


def ollama_chat(url: str) -> str:
    with ollama.Client(url, timeout=30) as client:
        parts = list(client.chat("m", HELLO, stream=True))
    assert parts[-1].done
    return "".join(part.message.content or "" for part in parts)


def tgi(url: str) -> str:
    client = InferenceClient(base_url=f"{url}/models/m", timeout=30)  # it closes its streams when it is collected
    return "".join(client.text_generation("hello", stream=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The official client of an API, what it raises for a failed stream, and a request by hand."""

    table: StreamEvents
    read: Callable[[str], str]
    error: type[Exception]
    path: str
    content: dict[str, Any]


def judges() -> Iterator[Judge]:
    messages, prompt = {"messages": HELLO}, {"input": "hello"}
    for table, read, error, path, content in (
        (CHAT, chat, openai.APIError, "/v1/chat/completions", {"json": messages}),
        (MEDIA, transcription, openai.APIError, "/v1/audio/transcriptions", {"files": {"file": SOUND}}),
        (RESPONSES, response, RuntimeError, "/v1/responses", {"json": prompt}),
        (ANTHROPIC, message, anthropic.APIStatusError, "/v1/messages", {"json": {**messages, "max_tokens": 9}}),
        (OLLAMA, ollama_chat, ollama.ResponseError, "/api/chat", {"json": messages}),
        (TGI, tgi, IncompleteGenerationError, "/generate_stream", {"json": {"inputs": "hello"}}),
    ):
        yield Judge(table=table, read=read, error=error, path=path, content=content)


JUDGES = {judge.table.name: judge for judge in judges()}


def request_of(judge: Judge) -> dict[str, Any]:
    fields = {"model": "m", "stream": "true" if "files" in judge.content else True}
    sent = {**judge.content, **({"data": fields} if "files" in judge.content else {})}
    return {**sent, **({"json": {**sent["json"], **fields}} if "json" in sent else {})}


def by_hand(router: RouterProcess, judge: Judge) -> bytes:
    answer = httpx.post(f"{router.url}{judge.path}", timeout=30, **request_of(judge))
    assert answer.status_code == 200, answer.text
    return answer.content


def last_events(judge: Judge, body: bytes) -> list[str | None]:
    lines = [line.removeprefix(b"data:").strip() for line in body.split(b"\n") if line.startswith((b"data:", b"{"))]
    return [judge.table.last(line) for line in lines]


def test_every_api_that_streams_has_a_judge() -> None:
    assert JUDGES.keys() == {table.name for table in STREAMS}


def test_table_names_paths_that_exist_and_their_format() -> None:
    known = formats(ResponseFiles(Path("none"), writers=1, open_access=True))

    assert {path for table in STREAMS for path in table.paths} <= known.keys()
    assert all((known[path].stream_type == NDJSON) == (table is OLLAMA) for table in STREAMS for path in table.paths)


@pytest.mark.parametrize("name", JUDGES)
def test_complete_stream(engine: FakeUpstream, router: RouterProcess, name: str) -> None:
    judge = JUDGES[name]
    engine.answers_with(speaks())

    *others, last = last_events(judge, by_hand(router, judge))

    assert last in judge.table.complete
    assert set(others) == {None}
    assert judge.read(router.url) == "ab"


@pytest.mark.parametrize("name", JUDGES)
def test_failed_stream(engine: FakeUpstream, router: RouterProcess, name: str) -> None:
    judge = JUDGES[name]
    engine.answers_with(speaks(0.05, end=(CLOSE,)))

    *others, last = last_events(judge, by_hand(router, judge))

    assert last == judge.table.failed
    assert set(others) == {None}
    with pytest.raises(judge.error):
        judge.read(router.url)


@pytest.mark.slow
def test_clients_ignore_what_they_get_while_they_wait(engine: FakeUpstream, router: RouterProcess) -> None:
    """All at the same time: the engine is silent for seconds in the middle of each stream."""
    engine.answers_with(speaks(SILENCE_S))
    with ThreadPoolExecutor(2 * len(JUDGES)) as pool:
        texts = [pool.submit(judge.read, router.url) for judge in JUDGES.values()]
        bodies = {name: pool.submit(by_hand, router, judge) for name, judge in JUDGES.items()}

    assert SILENCE_S < HEARTBEAT_S
    assert [text.result() for text in texts] == ["ab"] * len(JUDGES)
    waited = {name: body.result() for name, body in bodies.items()}
    assert {name for name, body in waited.items() if b": waiting for the engine\n\n" not in body} == {OLLAMA.name}
    assert waited[RESPONSES.name].count(b"event: response.in_progress\n") == 2
    assert waited[ANTHROPIC.name].count(b"event: ping\n") == 1
    assert waited[OLLAMA.name].count(b'"content":""') == 2  # with the one at the end


def first_bytes(router: RouterProcess, judge: Judge, came: Queue[float]) -> bytes:
    """The whole stream; when its first bytes came goes to `came`, which gets something in any case."""
    began, whole = time.monotonic(), b""
    try:
        with httpx.stream("POST", f"{router.url}{judge.path}", timeout=60, **request_of(judge)) as answer:
            assert answer.status_code == 200, answer.read()
            for part in answer.iter_raw():
                if not whole:
                    came.put(time.monotonic() - began)
                whole += part
        return whole
    finally:
        if not whole:
            came.put(math.inf)


@pytest.mark.slow
def test_clients_wait_for_a_load_and_get_something_meanwhile(engine: FakeUpstream, router: RouterProcess) -> None:
    """All at the same time: the model is ready only once each of them has got something."""
    engine.answers_with(speaks())
    loading = replica_state(
        "m-a", ReplicaStatus.STARTING, requested="loaded", progress=Progress(phase="load", percent=7)
    )
    publish(router.plan, loading, sequence=2)
    time.sleep(2 * POLL_S)
    came: Queue[float] = Queue()
    with ThreadPoolExecutor(2 * len(JUDGES)) as pool:
        bodies = {name: pool.submit(first_bytes, router, judge, came) for name, judge in JUDGES.items()}
        texts = [pool.submit(judge.read, router.url) for judge in JUDGES.values()]
        waits = [came.get(timeout=45) for _ in JUDGES]
        publish(router.plan, replica_state("m-a", ReplicaStatus.READY), sequence=3)
        waited = {name: body.result() for name, body in bodies.items()}
        assert [text.result() for text in texts] == ["ab"] * len(JUDGES)
    assert max(waits) < 1.5 * HEARTBEAT_S
    assert {name for name, body in waited.items() if b": model loading: load 7 %" not in body} == {OLLAMA.name}
    assert all(last_events(JUDGES[name], body)[-1] in JUDGES[name].table.complete for name, body in waited.items())
