"""A model hub on loopback with what Berth asks of the real one: the list of files, and the files."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class FakeHub:
    """`files` of its one model; None as content: a large file of `sizes` bytes. `refusal`: (status, error code)."""

    model: str = "Qwen/Qwen3-8B"
    files: dict[str, bytes | None] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    listing: bytes | None = None  # instead of the true one
    token: str = ""  # when set, only this one is served
    paths: list[str] = field(default_factory=list)  # what was asked for
    endpoint: str = ""

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, error code and body."""
        self.paths.append(path)
        if self.refusal:
            return *self.refusal, b"{}"
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return 401, "GatedRepo", b"{}"
        if path.startswith(f"/api/models/{self.model}"):
            return 200, "", self.listing if self.listing is not None else self._listing()
        content = self.files.get(path.rsplit("/", 1)[-1])
        if path.startswith(f"/{self.model}/resolve/") and content is not None:
            return 200, "", content
        return 404, "RepoNotFound", b"{}"

    def _listing(self) -> bytes:
        siblings = [
            {"rfilename": name, "size": self.sizes.get(name, len(content or b""))}
            for name, content in self.files.items()
        ]
        return json.dumps({"_id": "1", "id": self.model, "sha": "0" * 40, "siblings": siblings}).encode()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code, body = hub.answer(self.path.split("?")[0], dict(self._lower()))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if code:
                self.send_header("x-error-code", code)
            self.end_headers()
            self.wfile.write(body)

        def _lower(self) -> Iterator[tuple[str, str]]:
            return ((name.lower(), value) for name, value in self.headers.items())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
