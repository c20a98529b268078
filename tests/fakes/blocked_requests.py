"""Requests that fake engines hold until the test releases them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import httpx

from tests.fakes.upstream import FakeUpstream, chat_answer


class BlockedRequests:
    """Every engine responds only after `go` is set. Requests are sent from threads."""

    def __init__(self, url: str, engines: Sequence[FakeUpstream]) -> None:
        self.go = threading.Event()
        self._url = url
        self._engines = engines
        self._threads = ThreadPoolExecutor(32)
        for engine in engines:
            engine.forget()
            engine.answers(self.go, chat_answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.go.set()
        self._threads.shutdown()

    def send(self, model: str, text: str = "hello", **headers: str) -> "Future[httpx.Response]":
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._threads.submit(
            lambda: httpx.post(f"{self._url}/v1/chat/completions", json=body, headers=named, timeout=30)
        )

    def send_and_wait(self, model: str, text: str = "hello", **headers: str) -> "Future[httpx.Response]":
        """Sends a request, and returns when an engine has received it."""
        before = sum(self.counts())
        answer = self.send(model, text, **headers)
        await_true(lambda: sum(self.counts()) > before)
        return answer

    def counts(self) -> list[int]:
        """The number of requests that each engine has received."""
        return [len(engine.requests) for engine in self._engines]


def await_true(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)
