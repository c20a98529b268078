"""Asks /health again and again while a router is busy, each time over a new connection, as a container's check does."""

import http.client
import threading
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PAUSE_S = 0.05
_PATIENCE_S = 10.0


class Probe:
    """Used as a context manager; `seconds` holds how long each answer took."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe")
        self.seconds: list[float] = []
        self.failures = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_PAUSE_S):
            began = time.perf_counter()
            if self._healthy():
                self.seconds.append(time.perf_counter() - began)
            else:
                self.failures += 1

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(*self._address, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
