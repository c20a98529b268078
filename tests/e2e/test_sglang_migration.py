"""From the real vLLM to the real SGLang and back, under clients of three SDKs. Opt-in, as `test_sglang.py`:
`make e2e-sglang`; `E2E_ROUNDS=3` goes there and back three times.
"""

import itertools
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anthropic
import ollama
import pytest
from openai import OpenAI

from etc.tools.setup.sglang_cpu.install import is_installed
from tests.e2e.appliance import ROOT, Appliance, joined
from tests.e2e.test_migrate import migration, newest, run

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(1800)]
SGLANG = ROOT / ".engines/sglang-cpu"
SMALL = ["--mem-fraction-static", "0.1", "--max-total-tokens", "8192"]
CLIENTS = 8
TURNS = 6  # of a conversation, before the client begins another one
# Two engines and eight clients share the processors of a test machine: how long an answer takes says nothing there.
OPTIONS = ("--steps", "25,100", "--step-time", "1", "--step-requests", "16", "--first-token", "600", "--token", "60")


class Session:
    """What one client asks: a conversation, which the API or the model's beginning identifies."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._read: Callable[[str, bool], str] = (self._openai, self._anthropic, self._ollama)[number % 3]
        self.api = ("openai", "anthropic", "ollama")[number % 3]

    def text(self, name: str, *, stream: bool) -> str:
        return self._read(name, stream)

    def _openai(self, name: str, stream: bool) -> str:
        with OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            ask: Any = {"model": "m", "messages": said(name), "temperature": 0, "max_tokens": 200}
            if not stream:
                return client.chat.completions.create(**ask).choices[0].message.content or ""
            chunks = client.chat.completions.create(**ask, stream=True)
            return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    def _anthropic(self, name: str, stream: bool) -> str:
        with anthropic.Anthropic(base_url=self._url, api_key="none", max_retries=0, timeout=120) as client:
            ask: Any = {"model": "m", "messages": said(name), "max_tokens": 200}  # this SDK has no temperature
            if stream:
                with client.messages.stream(**ask) as answer:
                    return answer.get_final_text()
            return "".join(block.text for block in client.messages.create(**ask).content if block.type == "text")

    def _ollama(self, name: str, stream: bool) -> str:
        with ollama.Client(host=self._url, timeout=120) as client:
            options = {"temperature": 0, "num_predict": 200}
            if not stream:
                return client.chat("m", said(name), options=options).message.content or ""
            parts = client.chat("m", said(name), options=options, stream=True)
            return "".join(part.message.content or "" for part in parts)


def said(name: str) -> Any:
    return [{"role": "user", "content": f"Hello from {name}"}]


class SdkClients:
    """They ask while the block runs: whole answers and streams in turn, each conversation several times."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        self.failures: list[str] = []
        self.texts: set[str] = set()
        self.asked: Counter[tuple[str, bool]] = Counter()  # by API, and whether as a stream

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ends.set()
        joined(self._threads, 300)

    def _run(self, number: int) -> None:
        session = Session(self._url, number)
        for turn in itertools.count():
            if self._ends.is_set():
                return
            name, stream = f"{session.api}-{number}-{turn // TURNS}", bool(turn % 2)
            try:
                self.texts.add(session.text(name, stream=stream))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                self.failures.append(f"{name}: {type(error).__name__}: {error}")
            self.asked[session.api, stream] += 1


def test_there_and_back_without_a_failed_request_or_a_changed_text(
    forked_vllm: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """The model says its text exactly, without sampling: both engines have the same one."""
    if not os.environ.get("E2E_SGLANG") or not is_installed(SGLANG):
        pytest.skip("takes minutes and 3 GB: make e2e-sglang")
    (tmp_path / "vllm").symlink_to(forked_vllm / "vllm")
    (tmp_path / "sglang").symlink_to(SGLANG)
    engines = ["vllm", {"engine": "sglang", "args": SMALL}]
    models = json.dumps({"m": {"source": str(tiny_model), "engines": engines, "context": 1024}})
    variables = {"BERTH_ENGINE_HOME": str(tmp_path), "BERTH_QUEUE_TIMEOUT": "300s"}
    with Appliance(models, **variables) as berth:
        berth.wait_ready(600)
        with SdkClients(berth.url) as clients:
            served = [
                moved(berth, to) for _ in range(int(os.environ.get("E2E_ROUNDS", "1"))) for to in ("sglang", "vllm")
            ]
        paragraph = json.loads((tiny_model / "script.json").read_text())["paragraph"]

    changed = clients.texts - {paragraph}
    asked = ", ".join(f"{api} {'streams' if stream else 'whole'} {n}" for (api, stream), n in clients.asked.items())
    sys.stdout.write(f"\n{asked}; of the candidates {served}\n")
    sys.stdout.write(
        f"requests {sum(clients.asked.values())} failed {len(clients.failures)} texts changed {len(changed)}\n"
    )
    assert clients.failures == []
    assert clients.texts == {paragraph}
    assert len(clients.asked) == 6  # three APIs, whole and as streams
    assert min(served) >= 16


def moved(berth: Appliance, to: str) -> int:
    """To the other engine, until the one before has stopped. Returns the requests of the candidate."""
    code, shown = run(berth, "migrate", "m", "--to", to, *OPTIONS, "--keep", "0", "--wait", "600")
    assert code == 0, f"{shown}\n{newest(berth).reason}"
    berth.wait(lambda: not newest(berth).running, 300)
    return migration(berth).own.attempts
