"""What an engine is to Berth: `Engine` says how to start it and how to probe it, `Dialect` how to talk to it."""

from dataclasses import dataclass
from typing import Protocol

from berth.plan import Adapter, DialectName, EngineName, Gpu, Launch, MemoryEstimate, Probe, Sleep, Task


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
    fetch_hosts: tuple[str, ...] | None = None  # that it may fetch from for clients; None: all that are public
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
