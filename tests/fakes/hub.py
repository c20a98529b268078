"""A model hub on loopback with what Berth asks of the real one: the list of files, the files, and large files from a
second host behind a redirect. It fails on demand.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40
LARGE = (".safetensors", ".bin")  # kept in Git LFS


@dataclass(slots=True)
class Fault:
    """What goes wrong with one answer to a GET of a file whose path ends with `path`, `times` times."""

    path: str = ""
    status: int = 0  # this status instead of the file
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    ignores_range: bool = False  # the whole file, with status 200
    corrupt: bool = False  # other bytes than the checksum says
    pause_s: float = 0.0  # before the body
    times: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None  # of the body as announced
    pause_s: float = 0.0


@dataclass(slots=True)
class FakeHub:
    """`files` of its one model; None as content: a large file of `sizes` bytes. `refusal`: (status, error code)."""

    model: str = "Qwen/Qwen3-8B"
    files: dict[str, bytes | None] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    listing: bytes | None = None  # instead of the true one
    token: str = ""  # when set, only this one is served
    commit: str = COMMIT
    base_model: str | list[str] = ""  # in the metadata of its card
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)  # further models: id -> files
    faults: list[Fault] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # what was asked for
    ranges: list[str] = field(default_factory=list)  # of large files
    leaked: list[str] = field(default_factory=list)  # tokens that the second host was shown
    endpoint: str = ""

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        self.paths.append(path)
        if path.startswith("/storage/"):
            return self._stored(path, headers)
        if self.refusal:
            return Answer(self.refusal[0], {"x-error-code": self.refusal[1]}, b"{}")
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401, {"x-error-code": "GatedRepo"}, b"{}")
        for model, files in self._repositories():
            if path.startswith(f"/api/models/{model}/") or path == f"/api/models/{model}":
                return Answer(200, body=self._listing(model, files))
            if path.startswith(f"/{model}/resolve/"):
                name = path.split("/", 5)[5] if "/" in model else path.split("/", 4)[4]
                return self._file(method, name, files.get(name))
        return Answer(404, {"x-error-code": "RepoNotFound"}, b"{}")

    def _repositories(self) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
        yield self.model, self.files
        yield from self.others.items()

    def _listing(self, model: str, files: Mapping[str, bytes | None]) -> bytes:
        if self.listing is not None and model == self.model:
            return self.listing
        siblings = [self._sibling(name, content) for name, content in files.items()]
        card = {"cardData": {"base_model": self.base_model}} if self.base_model else {}
        return json.dumps({"_id": "1", "id": model, "sha": self.commit, "siblings": siblings, **card}).encode()

    def _sibling(self, name: str, content: bytes | None) -> dict[str, object]:
        size = self.sizes.get(name, len(content or b""))
        found: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_blob(content or b"")}
        if name.endswith(LARGE):
            found["lfs"] = {"size": size, "sha256": sha256(content or b""), "pointerSize": 134}
        return found

    def _file(self, method: str, name: str, content: bytes | None) -> Answer:
        if content is None:
            return Answer(404, {"x-error-code": "EntryNotFound"}, b"{}")
        headers = {"x-repo-commit": self.commit, "etag": f'"{git_blob(content)}"'}
        if name.endswith(LARGE):
            linked = {"x-linked-etag": f'"{sha256(content)}"', "x-linked-size": str(len(content))}
            storage = self.endpoint.replace("127.0.0.1", "localhost")
            return Answer(302, {**headers, **linked, "location": f"{storage}/storage/{name}"})
        fault = self._fault(name) if method == "GET" else Fault()
        return Answer(fault.status or 200, headers, content, pause_s=fault.pause_s)

    def _stored(self, path: str, headers: Mapping[str, str]) -> Answer:
        """The second host: it knows large files by their names, whoever's they are."""
        name = path.removeprefix("/storage/")
        content = next(files[name] for _, files in self._repositories() if name in files) or b""
        self.ranges.append(headers.get("range", ""))
        self.leaked += [headers["authorization"]] if "authorization" in headers else []
        fault = self._fault(name)
        if fault.status:
            return Answer(fault.status, body=b"{}")
        start = 0 if fault.ignores_range else int(headers.get("range", "bytes=0-")[6:-1])
        body = (content[::-1] if fault.corrupt else content)[start:]
        sent = body if fault.cut_after is None else body[: fault.cut_after]
        status = 206 if "range" in headers and not fault.ignores_range else 200
        return Answer(status, body=sent, length=len(body), pause_s=fault.pause_s)

    def _fault(self, name: str) -> Fault:
        for fault in self.faults:
            if fault.times and name.endswith(fault.path):
                fault.times -= 1
                return fault
        return Fault()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    """What Git calls a file of this content, and the hub's cache a small one."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def _answer(self, method: str) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = hub.answer(method, self.path.split("?")[0], headers)
            self.send_response(answer.status)
            self.send_header("content-length", str(len(answer.body) if answer.length is None else answer.length))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            time.sleep(answer.pause_s)
            if method == "GET":
                self.wfile.write(answer.body)

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
