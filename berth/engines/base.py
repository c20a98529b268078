"""What an engine is to Berth: `Engine` says how to start it and how to probe it, `Dialect` how to talk to it."""

from dataclasses import dataclass
from typing import Protocol

from berth.canonical import Answer, Failure, InferenceRequest, Transcript, UpstreamRequest, Usage
from berth.plan import Adapter, DialectName, EngineName, Gpu, Launch, MemoryEstimate, Probe, Sleep, Task


class UnsupportedError(Exception):
    """This engine cannot do what the request asks; another may. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """Everything an engine needs to know to write its command line."""

    replica: str
    served_name: str
    source: str  # hub id or absolute local path
    revision: str | None = None
    task: Task = Task.GENERATE
    host: str = "127.0.0.1"
    port: int = 0
    socket: str = ""  # the path of a Unix socket to listen at, in place of host and port
    gpus: tuple[Gpu, ...] = ()  # empty: run on the CPU
    memory: MemoryEstimate | None = None
    memory_fraction: float | None = None  # of each GPU's total memory, everything included
    context: int | None = None
    dtype: str | None = None  # from config.json: "bfloat16", "float16", "float32"
    model_type: str | None = None  # from config.json: "qwen3", "llama"
    chat_template: str | None = None  # the Jinja text, to find the tool and reasoning parser
    dialect: DialectName | None = None  # sim: which engine to pretend to be
    home: str  # the engine's environment: <home>/bin/python exists
    version: str = ""  # the engine's; caches of one are of no use to another
    python: str  # Berth's own interpreter
    run_dir: str
    data_dir: str
    offline: bool = False  # nothing at all may be fetched; models are not fetched by engines in any case
    sleeps: bool = False  # it is put to sleep while another engine of its model serves
    adapters: tuple[Adapter, ...] = ()
    extra_args: tuple[str, ...] = ()  # the user's, appended last so that they win


class Engine(Protocol):
    """How one kind of engine is started and probed."""

    name: EngineName
    dialect: DialectName
    ready: Probe
    alive: Probe
    sleep: Sleep | None  # None: it cannot be put to sleep
    takes_socket: bool  # it can listen at a Unix socket
    start_timeout_s: float
    stop_timeout_s: float

    def launch(self, order: LaunchOrder) -> Launch:
        """argv, environment, files and links for the replica. Pure."""
        ...

    def overhead_bytes(self, *, gpus: int) -> int:
        """What the engine takes per GPU beside weights and KV cache: context, graphs, activations."""
        ...

    def concurrency(self, order: LaunchOrder) -> int | None:
        """How many requests it works on at once; more would wait in it. None: it finds that out by itself."""
        ...


class StreamDecoder(Protocol):
    """Follows one streamed answer, frame by frame, and says when it is not one."""

    usage: Usage  # what the engine told so far

    def quick(self, chunk: bytes) -> bytes | None:
        """What `frame` would give, for bytes that are exactly one frame, and one that differs from an earlier one in
        its text alone; None for all others.
        """
        ...

    def keep(self) -> None:
        """From now on the text is kept, for `transcript`."""
        ...

    def transcript(self) -> Transcript:
        """What the client has after all frames so far. Only of use after `keep`."""
        ...

    def frame(self, frame: bytes) -> bytes | Failure:
        """What the client gets for one complete SSE frame: the same bytes where nothing needs changing, b"" where
        it gets nothing. A Failure for an error inside the stream; nothing may be fed after it.
        """
        ...

    def end(self) -> Failure | None:
        """Call when the engine's stream is over: a Failure unless it ended as it should (finish_reason for every
        choice, or [DONE]).
        """
        ...


class Dialect(Protocol):
    """How one kind of engine spells OpenAI's API."""

    name: DialectName

    def request(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        """The engine's spelling of the request. UnsupportedError where it has none."""
        ...

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> Answer | Failure:
        """Reads a whole answer, and an error answer to a streamed request too. `model` is the name to show."""
        ...

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        """A decoder for the frames of a 200 answer to a streamed request."""
        ...
