"""What clients and engines can do to a router, each in a size: lists, schemas, encodings, dense JSON, pictures, engines
without end, and clients that stall. Each returns the statuses of its responses.
"""

import base64
import gzip
import socket
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import orjson

from berth.canonical import Json
from berth.plan import DialectName
from berth.state import ReplicaStatus
from tests.chaos.engines import SimEngine
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import HANG, FakeUpstream, Step, chat_frame, chunk, stream_head
from tests.fuzz.requests import PATHS, SMALLEST, lists

STALL_S: Final = 1.0
LIMIT: Final = 32 << 20
Statuses = Counter[str]
_BIG: Final = b"x" * 65536
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_CHUNKED: Final = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_ENDLESS: Final[Mapping[str, tuple[Step, ...]]] = {
    "a body": (_CHUNKED, *[chunk(_BIG)] * 1000),
    "a header": (_HEAD + b"x: ", *[_BIG] * 1000),
    "a frame": (stream_head(), chunk(b"data: "), *[chunk(_BIG)] * 1000),
    "comments": (stream_head(), *[chunk(b": ping\n\n" * 5000)] * 1000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    router: RouterProcess
    engine: FakeUpstream  # of the model "endless"; "m" is served by a simulated engine

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        """The status."""
        kind = {"content-type": "application/json", **(headers or {})}
        try:
            response = httpx.post(f"{self.router.url}{path}", content=body, headers=kind, timeout=180, trust_env=False)
        except httpx.WriteError:  # the response came before the whole body was sent
            return "rejected early"
        return str(response.status_code)


@contextmanager
def target() -> Iterator[Target]:
    with ExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="bf-", ignore_cleanup_errors=True))
        sim = stack.enter_context(SimEngine(DialectName.VLLM))
        engine = stack.enter_context(FakeUpstream())
        replicas = [
            replace(replica("m-a", sim.url, vocab_size=32000), served_name="sim"),
            replica("endless-a", engine.url),
        ]
        limits = replace(LIMITS, max_body_bytes=LIMIT, client_stall_timeout_s=STALL_S)
        plan = make_plan(run_dir, replicas, limits=limits)
        publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
        router = RouterProcess(plan)
        stack.callback(router.end)
        router.await_answer()
        yield Target(router=router, engine=engine)


def doubled_lists(on: Target, size: int) -> Statuses:
    """`size`: items of each list."""
    bodies = ((path, orjson.dumps(document)) for path in PATHS for document in lists(path, size).values())
    return Counter(on.post(path, body) for path, body in bodies if len(body) <= LIMIT)


def _bomb(levels: int) -> Json:
    """Each level refers to the next one twice."""
    definitions: Json = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}, {"$ref": f"#/$defs/d{level + 1}"}]}
        for level in range(levels)
    }
    return {"$defs": {**definitions, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def schema_bombs(on: Target, size: int) -> Statuses:
    """`size`: levels."""
    schema = _bomb(size)
    named = {"type": "json_schema", "schema": schema}
    wanted: dict[str, Json] = {
        "/v1/chat/completions": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", **named}}},
        "/v1/responses": {"text": {"format": {"name": "n", **named}}},
        "/v1/messages": {"output_config": {"format": named}},
        "/api/chat": {"format": schema, "stream": False},
        "/generate": {"parameters": {"grammar": {"type": "json", "value": schema}}},
        "/v1/completions": {"structured_outputs": {"json": schema}},
    }
    return Counter(on.post(path, orjson.dumps(SMALLEST[path] | fields)) for path, fields in wanted.items())


def encodings(on: Target, size: int) -> Statuses:
    """`size`: MiB that the bodies have when they are decoded."""
    plain = orjson.dumps(SMALLEST["/v1/chat/completions"] | {"user": "x" * (size << 20)})
    bodies = {
        "gzip": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "identity": plain,
        "br": b"\x00",
        "x": b"{",
    }
    return Counter(on.post("/v1/chat/completions", body, {"content-encoding": name}) for name, body in bodies.items())


def dense_json(on: Target, size: int) -> Statuses:
    """`size`: MiB."""
    many = {"lists": b"[],", "objects": b'{"":0},', "texts": b'"",', "numbers": b"1,", "escapes": b'"\\\\\\"",'}
    bodies = (b'{"model":"m","z":[' + item * ((size << 20) // len(item)) + b"0]}" for item in many.values())
    return Counter(on.post("/v1/messages", body) for body in bodies)


def pictures(on: Target, size: int) -> Statuses:
    """`size`: MiB."""
    data = base64.b64encode(bytes((size << 20) * 3 // 4)).decode()
    part: Json = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    bodies: dict[str, Any] = {"/v1/chat/completions": part, "/v1/messages": block}
    found = Statuses()
    for path, content in bodies.items():
        found[on.post(path, orjson.dumps(SMALLEST[path] | {"messages": [{"role": "user", "content": [content]}]}))] += 1
    return found


def endless_engines(on: Target, size: int) -> Statuses:
    """`size`: times each."""
    found = Statuses()
    on.engine.answers(stream_head(), chunk(chat_frame(role=True)), HANG)
    silent = SMALLEST["/v1/chat/completions"] | {"model": "endless", "stream": True}
    found[on.post("/v1/chat/completions", orjson.dumps(silent))] += 1
    for steps in _ENDLESS.values():
        on.engine.answers(*steps)
        for stream in (False, True) * size:  # one that is not streamed may be silent for long
            body = SMALLEST["/v1/chat/completions"] | {"model": "endless", "stream": stream, "max_tokens": 5}
            found[on.post("/v1/chat/completions", orjson.dumps(body))] += 1
    return found


def stalled_clients(on: Target, size: int) -> Statuses:
    """`size`: clients; half of them send 128 KiB first. Then all send a byte now and then."""
    host, port = on.router.plan.listen.host, on.router.plan.listen.port
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n"
    clients = [socket.create_connection((host, port), 10) for _ in range(size)]
    for place, client in enumerate(clients):
        client.sendall(head + (b"x" * (128 << 10) if place % 2 else b"{"))
    found, ends = Statuses(), time.monotonic() + 60 * STALL_S
    for client in clients:
        client.settimeout(0.02)
    waiting = [*clients]
    while waiting and time.monotonic() < ends:
        for client in tuple(waiting):
            try:
                answer = client.recv(4096)
            except TimeoutError:
                client.send(b" ")
                continue
            except OSError:
                answer = b""
            found[answer[9:12].decode() or "closed"] += 1
            waiting.remove(client)
    found["open"] += len(waiting)
    for client in clients:
        client.close()
    return +found


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    run: Callable[[Target, int], Statuses]
    short: int
    long: int
    allowed: frozenset[str]


def _attack(run: Callable[[Target, int], Statuses], short: int, long: int, allowed: str) -> Attack:
    return Attack(run=run, short=short, long=long, allowed=frozenset(allowed.split(", ")))


ATTACKS: Final[Mapping[str, Attack]] = {
    "doubled lists": _attack(doubled_lists, 1000, 20_000, "200, 400, 413, 422"),
    "schema bombs": _attack(schema_bombs, 30, 2000, "200, 400, 413, 422"),
    "encodings": _attack(encodings, 2, 20, "200, 400, 413, 415"),
    "dense JSON": _attack(dense_json, 4, 30, "400, 413"),
    "pictures": _attack(pictures, 8, 30, "200, 400"),
    "endless engines": _attack(endless_engines, 1, 5, "429, 502, 503"),
    "stalled clients": _attack(stalled_clients, 20, 200, "408"),
}
