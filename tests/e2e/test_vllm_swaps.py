"""Two tiny models of which one fits into the RAM, with the real vLLM on the CPU: they take turns under load."""

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import psutil
import pytest

from berth.host.cgroup import available_memory
from berth.plan import Keys
from tests.e2e.appliance import Appliance, joined
from tests.e2e.killed_streams import metric
from tests.e2e.slow_processes import listeners, send_signal, slow_down
from tests.e2e.test_operations import run
from tests.fakes.second_model import make_second_model
from tests.fakes.streaming_clients import APIS as STREAMS
from tests.fakes.streaming_clients import all_of
from tests.sim.harness import get, running, send_request

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(400)]

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
PATIENCE_S = 240.0
SHARE = 0.6  # of the RAM, that each model is taken to need: its weights are a file with a hole
SWAPS = 1


@dataclass(frozen=True, kw_only=True)
class Box:
    berth: Appliance
    texts: dict[str, str]


@pytest.fixture(scope="module")
def box(
    forked_vllm: Path, tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("two-models")
    texts = {
        "red": json.loads((tiny_model / "script.json").read_text())["paragraph"],
        "blue": make_second_model(tiny_model, tiny_adapter, folder / "second"),
    }
    sources = {"red": tiny_model, "blue": folder / "second"}
    fields = {"engines": ["vllm"], "load": "on_request", "min_residency": "1s", "max_wait": "1s", "sleep": True}
    fields |= {"drain_timeout": "5s"}
    fields |= {"context": 1024, "kv_cache": "64MiB"}
    priorities = {"red": "low", "blue": "normal"}  # so that red leaves at once, however long its load took
    models = {
        name: {"source": str(_seems_large(source, folder / name)), "priority": priorities[name], **fields}
        for name, source in sources.items()
    }
    variables = {"BERTH_ENGINE_HOME": str(_loads_what_is_inside(forked_vllm, folder / "engines"))}
    variables |= {"BERTH_QUEUE_TIMEOUT": "240s", "BERTH_TOKEN_TIMEOUT": "300s"}
    with Appliance(json.dumps(models), **variables) as berth:
        berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"unloaded"})
        assert "cannot be loaded at the same time" in run(berth, "plan")[1]
        yield Box(berth=berth, texts=texts)


def _seems_large(model: Path, folder: Path) -> Path:
    """A folder whose weights take so much of the RAM, for the plan; those that are loaded are inside."""
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            (folder / file.name).symlink_to(file)
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(int(SHARE * available_memory()))
    (folder / "inside").symlink_to(model)
    return folder


def _loads_what_is_inside(home: Path, folder: Path) -> Path:
    shutil.copytree(home, folder, symlinks=True)
    command = folder / "vllm/bin/vllm"
    command.write_text(f'#!/bin/sh\nmodel="$2/inside"\nshift 2\nexec "{home}/vllm/bin/vllm" serve "$model" "$@"\n')
    command.chmod(0o755)
    return folder


class Client(threading.Thread):
    """One API, one model: asks for so many answers, streamed and whole in turn. Each has to be the model's text."""

    def __init__(self, box: Box, api: str, model: str, answers: int) -> None:
        super().__init__()
        self._url = box.berth.url
        self._api = api
        self._model = model
        self._text = box.texts[model]
        self._answers = answers
        self.wrong: list[str] = []

    def run(self) -> None:
        ask = {"chat": self._chat, "responses": self._responses, "anthropic": self._anthropic, "ollama": self._ollama}
        for number in range(self._answers):
            stream = bool(number % 2)
            try:
                text = ask[self._api](stream=stream)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                text = repr(error)
            if text.strip() != self._text.strip():
                self.wrong.append(f"{self._api} {self._model} stream={stream}: {text!r}")

    def finish(self) -> None:
        joined([self], PATIENCE_S)
        assert self.wrong == []

    def ask(self) -> None:
        """Without a thread."""
        self.run()
        assert self.wrong == []

    def _chat(self, *, stream: bool) -> str:
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            answer: Any = client.chat.completions.create(model=self._model, messages=MESSAGES, stream=stream)
            if not stream:
                return str(answer.choices[0].message.content)
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)

    def _responses(self, *, stream: bool) -> str:
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            answer: Any = client.responses.create(model=self._model, input="Hello", stream=stream)
            if not stream:
                return str(answer.output_text)
            return "".join(event.delta for event in answer if event.type == "response.output_text.delta")

    def _anthropic(self, *, stream: bool) -> str:
        with anthropic.Anthropic(base_url=self._url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            asked: Any = {"model": self._model, "messages": MESSAGES, "max_tokens": 400}
            if stream:
                with client.messages.stream(**asked) as events:
                    return "".join(events.text_stream)
            return str(client.messages.create(**asked).content[0].text)

    def _ollama(self, *, stream: bool) -> str:
        with ollama.Client(self._url, timeout=PATIENCE_S) as client:
            answer: Any = client.chat(model=self._model, messages=MESSAGES, stream=stream)
            return "".join(part.message.content or "" for part in (answer if stream else [answer]))


def unloads(berth: Appliance) -> int:
    """By swaps, so far."""
    lines = berth.get("/metrics").text.splitlines()
    named = [line for line in lines if line.startswith("berth_model_changes_total") and 'why="swap"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in named if 'change="unload"' in line)


APIS = {"red": ("chat", "anthropic", "ollama"), "blue": ("chat", "anthropic", "responses")}


def test_swaps_by_stop_lose_no_answer_and_mix_up_none(box: Box) -> None:
    for _ in range(SWAPS):
        clients = [Client(box, api, model, answers=2) for model, apis in APIS.items() for api in apis]
        for client in clients:
            client.start()
        for client in clients:
            client.finish()
    assert unloads(box.berth) >= SWAPS


def token_makers(berth: Appliance, replica: str) -> set[int]:
    """Without the server in front of them, which says that all is well."""
    (one,) = (one for one in berth.plan().replicas if one.name == replica)
    servers = listeners(one.socket_path or httpx.URL(one.url).port or 0)
    return {child.pid for server in servers for child in psutil.Process(server).children(recursive=True)}


@pytest.mark.skipif(
    "PREEMPTIONS" not in os.environ, reason="takes minutes: `make preemptions`; test_swaps.py has a short form"
)
def test_preempted_streams_have_the_text_of_uninterrupted_ones(box: Box) -> None:
    Client(box, "chat", "red", answers=1).ask()
    makers, slow = token_makers(box.berth, "red-vllm"), ExitStack()
    slow.enter_context(slow_down(makers, run_s=0.001))
    other = Client(box, "chat", "blue", answers=1)

    def swap() -> None:
        slow.close()
        send_signal(makers, signal.SIGSTOP)  # no stream ends before it is preempted
        try:
            other.start()
            box.berth.wait(lambda: metric(box.berth, "berth_queue_length", "red") == len(names), PATIENCE_S)
        finally:
            send_signal(makers, signal.SIGCONT)
        other.finish()

    names = ("chat", "responses", "anthropic", "ollama chat")
    with slow:
        texts = asyncio.run(all_of([STREAMS[name](box.berth.url, "red") for name in names], swap))
    assert [str(text).strip() for text in texts] == [box.texts["red"].strip()] * len(names)
    counted = f'berth_requests_preempted_total{{model="red",outcome="continued"}} {len(names)}.0'
    box.berth.wait(lambda: counted in box.berth.get("/metrics").text, PATIENCE_S)


def test_sleep_under_load_loses_no_answer_and_is_ended_by_the_next_request(box: Box) -> None:
    """On the CPU it is logical: the engine stops working and keeps its memory."""
    Client(box, "chat", "red", answers=1).ask()
    client = Client(box, "chat", "red", answers=4)
    client.start()
    code, text = run(box.berth, "sleep", "red", "--wait", "100")
    assert (code, "done" in text) == (0, True), text
    Client(box, "chat", "red", answers=1).ask()
    client.finish()
    assert box.berth.replicas()["red-vllm"]["start"]["how"] == "wake"


RELOAD: Any = {"method": "reload_weights"}
SLEEP_CALLS: tuple[tuple[str, Any], ...] = (
    ("/sleep?level=2", None),
    ("/is_sleeping", None),
    ("/sleep?level=1", None),  # it sleeps already
    ("/wake_up?tags=weights", None),
    ("/is_sleeping", None),
    ("/wake_up?tags=weights&tags=kv_cache", None),  # the weights are awake: it does nothing
    ("/is_sleeping", None),
    ("/collective_rpc", RELOAD),
    ("/wake_up?tags=kv_cache", None),
    ("/is_sleeping", None),
    ("/wake_up", None),
    ("/sleep?level=0", None),
    ("/is_sleeping", None),
    ("/wake_up", None),
    ("/is_sleeping", None),
)


def test_simulated_engine_answers_calls_to_sleep_and_wake_as_vllm_does(box: Box) -> None:
    Client(box, "chat", "red", answers=1).ask()
    (replica,) = (one for one in box.berth.plan().replicas if one.model == "red")
    key = Keys.from_json(box.berth.paths.keys.read_bytes()).upstream_keys[replica.name]
    transport, headers = httpx.HTTPTransport(uds=replica.socket_path), {"authorization": f"Bearer {key}"}
    real, simulated = [], []
    with httpx.Client(transport=transport, base_url="http://vllm", headers=headers, timeout=PATIENCE_S) as engine:
        for path, body in SLEEP_CALLS:
            asked = engine.get(path) if path == "/is_sleeping" else engine.post(path, json=body)
            real.append((path, asked.status_code, asked.json()))
    with running("vllm", can_sleep=True) as server:
        for path, body in SLEEP_CALLS:
            reply = get(server.port, path) if path == "/is_sleeping" else send_request(server.port, path, body or {})
            simulated.append((path, reply.status, reply.json))
    assert simulated == real
    Client(box, "chat", "red", answers=2).ask()
