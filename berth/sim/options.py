"""The command line of the simulated engine."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from berth.plan import DialectName, Task
from berth.sim.faults.active import Faults, set_from_text
from berth.sim.faults.table import FAULTS, FaultError, duration_s
from berth.sim.load.batch import LoadModel

PARAGRAPH = (
    "The night train left the harbour at nine, its windows bright as lanterns. In the dining car a waiter carried "
    "two cups of café au lait past a sleeping fox 🦊 curled under the last table. No one asked how it had come "
    "aboard. Outside, the coast slid by in blue and silver, and every small station kept one lamp lit for anyone "
    "who might still be waiting. By morning the train would reach the mountains, and the fox would be gone."
)
KEY_VARIABLE = "SIM_API_KEY"  # for a key that `ps` does not list
DIALECTS = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM)
KV_CONTEXTS = 4  # the simulated KV cache holds this many full contexts, unless it is said
MIN_VOCAB_SIZE = 259  # three special tokens and one for each byte


class Reasoning(StrEnum):
    """When a response begins with reasoning."""

    OFF = "off"  # never: the engine runs without a reasoning parser
    ASKED = "asked"  # if the request demands it
    ALWAYS = "always"  # unless the request disables it


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    dialect: DialectName = DialectName.VLLM
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str = ""  # a Unix socket instead of host and port
    admin_port: int | None = None  # for /sim/* only; no fault affects it
    names: tuple[str, ...] = ("sim",)  # the first one is the name in responses
    context: int = 8192
    task: Task = Task.GENERATE
    ttft_s: float = 0.02
    itl_s: float = 0.005
    itl_per_running_s: float = 0.0
    prefill_rate: float = 0.0  # tokens a second; 0: prompts need no time
    jitter: float = 0.0
    seed: int = 0
    kv_tokens: int = 0  # 0: KV_CONTEXTS contexts, and no request waits for them
    prefix_cache: bool = False
    differs: float = 0.0  # share of the tokens that are others than the text's
    text: str = PARAGRAPH
    load_s: float = 0.0
    vocab_size: int = 32000
    max_running: int = 256
    max_queued: int | None = None  # None: no limit
    reasoning: Reasoning = Reasoning.ASKED
    tools: bool = True  # False: started without a tool parser
    dimensions: int = 256
    api_key: str | None = None
    keep_alive_s: float = 5.0
    adapters: list[str] = field(default_factory=list)  # names of LoRA adapters; the responses are the same
    adapter_slots: int = 0  # for further ones, loaded and unloaded by calls
    gpu_folder: str = ""  # where the GPU memory that it holds is written down; "": nowhere
    gpu_memory_mib: Mapping[int, int] = field(default_factory=dict)  # by GPU index
    can_sleep: bool = False  # started with the options that sleep mode needs
    nodes: int = 1  # boxes that it runs on
    node_rank: int = 0
    meeting: tuple[str, int] = ("", 0)  # where the ranks meet: an address of the head
    access_log: bool = False
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def kv_capacity(self) -> int:
        return self.kv_tokens or self.context * KV_CONTEXTS

    @property
    def has_load(self) -> bool:
        """Requests delay each other."""
        return bool(self.itl_per_running_s or self.prefill_rate or self.jitter or self.kv_tokens or self.prefix_cache)

    @property
    def load(self) -> LoadModel:
        return LoadModel(
            itl_s=self.itl_s,
            itl_per_running_s=self.itl_per_running_s,
            prefill_rate=self.prefill_rate,
            jitter=self.jitter,
            seed=self.seed,
            max_running=self.max_running,
            kv_tokens=self.kv_tokens,
            prefix_cache=self.prefix_cache,
        )

    def response_model(self, model: object) -> str:
        """The model name in vLLM's response to a request for this model: its first name, or the adapter's."""
        return str(model) if model in self.adapters else self.name


def parse_options(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Options:
    """Exits with code 2 for an invalid command line, as argparse does. Reads only the key from `environ`."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        text = given.text if given.text_file is None else Path(given.text_file).read_text("utf-8")
        for fault in given.fault:
            set_from_text(Faults(), fault)
    except (OSError, UnicodeDecodeError, FaultError) as error:
        parser.error(str(error))
    if given.can_sleep and given.dialect == DialectName.TRTLLM:
        parser.error("--can-sleep: TensorRT-LLM has no sleep mode; use --dialect vllm or sglang")
    if given.adapters and given.dialect == DialectName.TRTLLM:
        parser.error("--adapters: TensorRT-LLM does not name adapters; use --dialect vllm or sglang")
    if given.nnodes > 1 and (given.node_rank >= given.nnodes or not given.dist_init_addr[0]):
        parser.error("--nnodes needs --dist-init-addr HOST:PORT, and a --node-rank below it")
    if given.nnodes > 1 and given.dialect == DialectName.TRTLLM:
        parser.error("--nnodes: TensorRT-LLM starts its ranks with mpirun; use --dialect vllm or sglang")
    if not text.strip():
        parser.error("the text is empty: --text or --text-file must have at least one word")
    return Options(
        dialect=DialectName(given.dialect), host=given.host, port=given.port, uds=given.uds,
        admin_port=given.admin_port, names=tuple(given.served_model_name), context=given.context,
        task=Task(given.task), ttft_s=given.ttft,
        itl_s=given.itl, itl_per_running_s=given.itl_per_running, prefill_rate=given.prefill_rate, jitter=given.jitter,
        seed=given.seed, kv_tokens=given.kv_tokens, prefix_cache=given.prefix_cache, differs=given.differs, text=text,
        load_s=given.load_time, vocab_size=given.vocab_size,
        max_running=given.max_running, max_queued=given.max_queued, reasoning=Reasoning(given.reasoning),
        tools=given.tools, dimensions=given.dimensions, keep_alive_s=given.keep_alive,
        gpu_folder=given.gpu_folder, gpu_memory_mib=dict(given.gpu_memory),
        can_sleep=given.can_sleep, adapters=list(given.adapters), adapter_slots=given.adapter_slots,
        api_key=given.api_key or (environ or {}).get(KEY_VARIABLE) or None,
        nodes=given.nnodes, node_rank=given.node_rank, meeting=given.dist_init_addr,
        access_log=given.access_log, faults=tuple(given.fault),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    faults = "\n".join(f"  {name:<21} {fault.help}" for name, fault in FAULTS.items())
    parser = argparse.ArgumentParser(
        prog="berth sim",
        description="A simulated engine: no GPU, no weights, the wire of a real engine, and faults on demand.",
        epilog=f"faults (--fault, or POST /sim/faults; GET lists, DELETE clears):\n{faults}\n\n"
        "signals: as the dialect's engine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server_options(parser)
    _add_generation_options(parser)
    parser.add_argument(
        "--fault", action="extend", nargs="+", default=[], metavar="NAME[=VALUE][@REQUESTS]",
        help="faults from the table below; with @N for the next N inference requests only",
    )  # fmt: skip
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dialect", choices=[str(name) for name in DIALECTS], default="vllm", help="the engine to simulate")
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=_port, default=8000, help="0 chooses a free one and logs it (default %(default)s)")
    add("--uds", default="", metavar="PATH", help="listen on this Unix socket instead, as vLLM does")
    add("--admin-port", type=_port, help="a second port for /sim/faults only; no fault affects it")
    add("--served-model-name", nargs="+", default=["sim"], metavar="NAME", help="names of the model (several for vLLM)")
    add("--adapters", nargs="+", default=[], metavar="NAME", help="LoRA adapters to simulate (not TensorRT-LLM)")
    add("--adapter-slots", type=_at_least(0), default=0, metavar="N", help="for adapters that are loaded by a call")
    add("--task", choices=[str(task) for task in Task], default="generate", help="the task of the model")
    add("--load-time", type=_duration, default=0.0, metavar="TIME", help="load time (default 0s)")
    add("--max-running", type=_at_least(1), default=256, metavar="N", help="concurrent requests (default 256)")
    add("--max-queued", type=_at_least(0), metavar="N", help="queued requests (default: unlimited)")
    add(
        "--api-key",
        metavar="KEY",
        help=f"require this Bearer key on the paths where the engine does (or {KEY_VARIABLE})",
    )
    add("--keep-alive", type=_duration, default=5.0, metavar="TIME", help="close idle connections after (default 5s)")
    add("--can-sleep", action="store_true", help="with sleep mode, as if started with its options (not TensorRT-LLM)")
    add("--gpu-folder", default="", metavar="DIR", help="write down there what it holds, for a simulated driver")
    add("--gpu-memory", type=_gpu_memory, nargs="+", default=[], metavar="GPU:MIB", help="the memory that it holds")
    add("--nnodes", type=_at_least(1), default=1, metavar="N", help="boxes that the engine runs on (not TensorRT-LLM)")
    add("--node-rank", type=_at_least(0), default=0, metavar="RANK", help="of this one; 0 alone answers requests")
    add("--dist-init-addr", type=_meeting, default=("", 0), metavar="HOST:PORT", help="of rank 0, where the ranks meet")
    add("--access-log", action="store_true", help="a log line per request")


def _add_generation_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--context",
        type=_at_least(1),
        default=8192,
        metavar="TOKENS",
        help="prompt and response together (default 8192)",
    )
    add("--ttft", type=_duration, default=0.02, metavar="TIME", help="time to first token (default 20ms)")
    add("--itl", type=_duration, default=0.005, metavar="TIME", help="time between tokens (default 5ms)")
    add("--itl-per-running", type=_duration, default=0.0, metavar="TIME", help="more of it for each running request")
    add("--prefill-rate", type=_positive, default=0.0, metavar="N", help="prompt tokens a second (default: unlimited)")
    add("--jitter", type=_share, default=0.0, metavar="SIGMA", help="of the time of each step, log-normal (default 0)")
    add("--kv-tokens", type=_at_least(1), default=0, metavar="N", help="requests wait for room in this KV cache")
    add("--prefix-cache", action="store_true", help="beginnings of prompts that are known need no time")
    add("--differs", type=_share, default=0.0, metavar="SHARE", help="of the tokens that are others than in the text")
    add("--seed", type=int, default=0, metavar="N", help="of the jitter and of the tokens that differ")
    add("--text", default=PARAGRAPH, help="the text of every response (default: a readable paragraph)")
    add("--text-file", metavar="FILE", help="the same, from a file")
    add(
        "--vocab-size",
        type=_at_least(MIN_VOCAB_SIZE),
        default=32000,
        metavar="N",
        help="number of token ids (default 32000)",
    )
    add(
        "--reasoning", choices=[str(value) for value in Reasoning], default="asked",
        help="reason first: never (off), on request (asked, default), or unless disabled (always)",
    )  # fmt: skip
    add("--no-tools", dest="tools", action="store_false", help="as if started without a tool parser")
    add("--dimensions", type=_at_least(1), default=256, metavar="N", help="of embeddings (default 256)")


def _port(text: str) -> int:
    number = _at_least(0)(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: must be from 0 to 65535")
    return number


def _meeting(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT")
    return host.strip("[]"), _port(port)


def _gpu_memory(text: str) -> tuple[int, int]:
    gpu, _, mib = text.partition(":")
    if not (gpu.isdecimal() and mib.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a GPU's index and MiB, such as 0:20480")
    return int(gpu), int(mib)


def _at_least(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if number < lowest:
            raise argparse.ArgumentTypeError(f"{text!r}: must be at least {lowest}")
        return number

    return parse


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be from 0 to 1")
    return number


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
