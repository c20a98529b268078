"""Berth's own work per request and token in several forms, side by side: `make figures FIGURES="--cost A B"`.

A and B are folders with a package `berth`: `.compiled` of two clones, or a clone itself for the interpreted form. Each
form is a process of its own, on this Python or on PYTHON. They take turns, part by part, so that whatever else the
machine does falls on all of them; the least of each is what counts. There is no server, no socket and no engine: the
application is called as Granian would, and an engine's bytes are handed to its connection by the event loop.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import uvloop

from etc.tools.rivals import frames

ROOT: Final = Path(__file__).resolve().parents[3]
ROUNDS: Final = 60
REQUESTS: Final = 100  # of a part
STREAMS: Final = 50
TOKENS: Final = 20  # of each stream of a part
ROUND_S: Final = 0.0025  # from token to token: longer than streams are batched
MEASURES: Final = ("request", "request, all features", "token")
_BODY: Final = b'{"model":"bench","messages":[{"role":"user","content":"Hello, how are you?"}],"stream":%s}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """µs of CPU time of a thread, by measure and form; each form's parts in the order of the rounds."""

    parts: Mapping[str, Mapping[str, Sequence[float]]]

    def least(self, measure: str, form: str) -> float:
        return min(self.parts[measure][form])

    def ratio(self, measure: str, form: str, base: str) -> float:
        """The median over the rounds of what a part took, divided by that of `base`."""
        pairs = zip(self.parts[measure][form], self.parts[measure][base], strict=True)
        return statistics.median(one / other for one, other in pairs)


def compare(forms: Sequence[str], *, rounds: int = ROUNDS, python: str = sys.executable) -> Comparison:
    """RuntimeError where a form does not run."""
    parts: dict[str, dict[str, list[float]]] = {measure: {form: [] for form in forms} for measure in MEASURES}
    with ExitStack() as stack:
        processes = {form: stack.enter_context(started(form, [python])) for form in forms}
        for number in range(rounds + 1):
            for measure in MEASURES:
                for form in forms if number % 2 else reversed(forms):
                    taken = ask(processes[form], measure, form)
                    if number:  # the first round finds everything out
                        parts[measure][form].append(taken)
    return Comparison(parts=parts)


def text(found: Comparison) -> str:
    lines = [f"{'µs of CPU time':24}{'least':>8}{'median':>9}{'ratio of rounds':>18}"]
    for measure, by_form in found.parts.items():
        lines.append(measure)
        base = next(iter(by_form))
        for form, parts in by_form.items():
            ratio = found.ratio(measure, form, base)
            lines.append(f"  {form:22}{min(parts):8.2f}{statistics.median(parts):9.2f}{ratio:17.3f}x")
    return "\n".join(lines)


def started(form: str, python: Sequence[str]) -> "subprocess.Popen[str]":
    """A process that `ask` can be asked of. `python`: the words that start one."""
    if not (Path(form) / "berth").is_dir():
        raise RuntimeError(f"{form!r} has no package berth: name a clone, or its .compiled (`make compiled`)")
    path = os.pathsep.join([str(Path(form).resolve()), str(ROOT)])
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    command = [*python, "-m", "etc.tools.figures.forms"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)


def ask(process: "subprocess.Popen[str]", measure: str, form: str) -> float:
    """What one part takes, in µs of CPU time for each of its requests or tokens."""
    wants, says = process.stdin, process.stdout
    if wants is not None and says is not None:
        wants.write(f"{measure}\n")
        wants.flush()
    if says is None or not (said := says.readline()):
        raise RuntimeError(f"{form!r} ended with {process.wait()}: its reason stands above")
    return float(said)


# what runs in the process of a form


class Wire(asyncio.Transport):
    """A connection to the engine, which responds as soon as it is asked; streams go on when they are told to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, streams: "list[Wire]") -> None:
        super().__init__()
        self._loop = loop
        self._streams = streams
        self._closing = False
        self.hears = protocol.data_received

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if b'"stream":true' in data:
            self._streams.append(self)
            self._loop.call_soon(self.hears, frames.START + frames.ROLE + frames.TOKENS[0])
        else:
            self._loop.call_soon(self.hears, frames.SHORT_ANSWER)

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True

    close = pause_reading = resume_reading = abort


class Loop(uvloop.Loop):
    """Its connections are wires."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[Wire] = []

    async def create_connection(self, protocol_factory: Callable[[], Any], *_: Any, **__: Any) -> Any:
        protocol = protocol_factory()
        wire = Wire(self, protocol, self.streams)
        protocol.connection_made(wire)
        return wire, protocol


class PyEmptyAwaitable:
    """As Granian's of the same name: the message is sent."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@dataclass(slots=True, kw_only=True)
class Form:
    """The applications of a form: `usual` has no keys; with `all` each request has a key with limits, and a trace."""

    loop: Loop
    apps: Mapping[str, Any]
    headers: Sequence[tuple[bytes, bytes]]
    sent: PyEmptyAwaitable = field(default_factory=PyEmptyAwaitable)

    async def ask(self, app: str, *, stream: bool = False) -> None:
        """RuntimeError unless the response has status 200 and comes to its end."""
        body = _BODY % (b"true" if stream else b"false")
        got: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        def send(message: dict[str, Any]) -> PyEmptyAwaitable:
            got[:] = [*(got or [message])[:1], message]
            return self.sent

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b""}
        headers = [*self.headers, (b"content-length", b"%d" % len(body))]
        await self.apps[app]({**scope, "headers": headers, "root_path": "", "client": ("127.0.0.1", 1)}, receive, send)
        if got[0]["status"] != 200 or got[-1].get("more_body"):
            raise RuntimeError(f"the router answered with {got}")

    async def measure(self, measure: str) -> float:
        """µs of one of MEASURES."""
        if measure == "token":
            return await self._tokens()
        app = "all" if "all" in measure else "usual"
        begins = time.thread_time()
        for _ in range(REQUESTS):
            await self.ask(app)
        return (time.thread_time() - begins) * 1e6 / REQUESTS

    async def _tokens(self) -> float:
        """Each stream has a token in each step, as those of an engine have."""
        streams = [asyncio.ensure_future(self.ask("usual", stream=True)) for _ in range(STREAMS)]
        await asyncio.sleep(10 * ROUND_S)  # all of them have begun
        begins = time.thread_time()
        for number in range(1, TOKENS + 1):
            for wire in self.loop.streams:
                self.loop.call_soon(wire.hears, frames.TOKENS[number])
            await asyncio.sleep(ROUND_S)
        taken = time.thread_time() - begins
        for wire in self.loop.streams:
            wire.hears(frames.FINISH + frames.USAGE + frames.DONE + frames.END)
        self.loop.streams.clear()
        await asyncio.gather(*streams)
        return taken * 1e6 / (STREAMS * TOKENS)


def _apps(folder: Path) -> dict[str, Any]:
    from berth.plan import Keys, Tracing  # noqa: PLC0415 - of the form, which the parent does not import
    from berth.router.app import App  # noqa: PLC0415 - the same
    from berth.router.telemetry.metrics import layout  # noqa: PLC0415 - the same
    from berth.router.telemetry.shared_counters import Scoreboard  # noqa: PLC0415 - the same
    from berth.router.worker import Worker  # noqa: PLC0415 - the same
    from etc.tools.figures.cost import LIMITED  # noqa: PLC0415 - the same
    from tests.fakes.router import make_plan, replica  # noqa: PLC0415 - the same

    plan = make_plan(str(folder / "usual"), [replica(f"{frames.MODEL}-a", "http://127.0.0.1:9")])
    everything = replace(plan, paths=replace(plan.paths, run_dir=str(folder / "all")), open_access=False)
    everything = replace(everything, tracing=Tracing(endpoint="http://127.0.0.1:9/v1/traces"))
    apps = {}
    for name, its_plan, keys in (("usual", plan, Keys()), ("all", everything, Keys(api_keys=(LIMITED,)))):
        Path(its_plan.paths.run_dir).mkdir()
        Scoreboard.create(its_plan.paths.scoreboard, layout(its_plan), rows=1)
        apps[name] = App(Worker(its_plan, keys))
    return apps


async def _serve(loop: Loop, folder: Path) -> None:
    """Measures what is asked for on standard input."""
    from etc.tools.figures.cost import KEY, TRACEPARENT  # noqa: PLC0415 - it imports the form

    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    headers += [(b"x-api-key", KEY.encode()), (b"traceparent", TRACEPARENT)]
    form = Form(loop=loop, apps=_apps(folder), headers=headers)
    for line in sys.stdin:
        print(await form.measure(line.strip()), flush=True)


def main() -> None:
    loop = Loop()
    with (
        tempfile.TemporaryDirectory(prefix="berth-form-") as folder,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        runner.run(_serve(loop, Path(folder)))


if __name__ == "__main__":
    main()
