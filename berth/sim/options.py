"""The command line of the simulated engine."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from berth.plan import DialectName, Task
from berth.sim.active_faults import Faults, set_from_text
from berth.sim.faults import FAULTS, FaultError, duration_s

PARAGRAPH = (
    "The night train left the harbour at nine, its windows bright as lanterns. In the dining car a waiter carried "
    "two cups of café au lait past a sleeping fox 🦊 curled under the last table. Nobody asked how it had come "
    "aboard. Outside, the coast slid by in blue and silver, and every small station kept one lamp lit for whoever "
    "might still be waiting. By morning the train would reach the mountains, and the fox would be gone."
)
KEY_VARIABLE = "SIM_API_KEY"  # a key that `ps` does not show
DIALECTS = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM)
MIN_VOCAB_SIZE = 259  # three special tokens and one for each byte


class Reasoning(StrEnum):
    """When an answer begins with reasoning."""

    OFF = "off"  # never: the engine has no reasoning parser
    ASKED = "asked"  # when the request asks for it
    ALWAYS = "always"  # unless the request forbids it


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    dialect: DialectName = DialectName.VLLM
    host: str = "127.0.0.1"
    port: int = 8000
    admin_port: int | None = None  # /sim/* alone, on a port that no fault touches
    names: tuple[str, ...] = ("sim",)  # the first one is the name in answers
    context: int = 8192
    task: Task = Task.GENERATE
    ttft_s: float = 0.02
    itl_s: float = 0.005
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
    adapters: tuple[str, ...] = ()  # names of LoRA adapters; the answers are the same
    can_sleep: bool = False  # started with the options that its dialect's engine needs to be put to sleep
    access_log: bool = False
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0]

    def response_model(self, model: object) -> str:
        """The name in an answer of vLLM's to a request for this model: the first of its own, or an adapter's."""
        return str(model) if model in self.adapters else self.name


def parse_options(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Options:
    """Exits with 2 and a message for a wrong command line, as argparse does. Of `environ` only the key is read."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        text = given.text if given.text_file is None else Path(given.text_file).read_text("utf-8")
        for fault in given.fault:
            set_from_text(Faults(), fault)
    except (OSError, UnicodeDecodeError, FaultError) as error:
        parser.error(str(error))
    if given.can_sleep and given.dialect == DialectName.TRTLLM:
        parser.error("--can-sleep: TensorRT-LLM cannot sleep; with --dialect vllm or sglang")
    if given.adapters and given.dialect == DialectName.TRTLLM:
        parser.error("--adapters: TensorRT-LLM has no names for them; with --dialect vllm or sglang")
    if not text.strip():
        parser.error("the text is empty: give --text or --text-file at least one word")
    return Options(
        dialect=DialectName(given.dialect), host=given.host, port=given.port, admin_port=given.admin_port,
        names=tuple(given.served_model_name), context=given.context, task=Task(given.task), ttft_s=given.ttft,
        itl_s=given.itl, text=text, load_s=given.load_time, vocab_size=given.vocab_size,
        max_running=given.max_running, max_queued=given.max_queued, reasoning=Reasoning(given.reasoning),
        tools=given.tools, dimensions=given.dimensions, keep_alive_s=given.keep_alive,
        can_sleep=given.can_sleep, adapters=tuple(given.adapters),
        api_key=given.api_key or (environ or {}).get(KEY_VARIABLE) or None,
        access_log=given.access_log, faults=tuple(given.fault),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="berth sim",
        description="A simulated engine: no GPU, no weights, the wire of a real engine, and faults on demand.",
        epilog=_fault_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _serving(parser)
    _answering(parser)
    parser.add_argument(
        "--fault", action="extend", nargs="+", default=[], metavar="NAME[=VALUE][@REQUESTS]",
        help="faults from the table below; with @N for the next N inference requests only",
    )  # fmt: skip
    return parser


def _serving(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dialect", choices=[str(name) for name in DIALECTS], default="vllm", help="the engine to speak like")
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=_port, default=8000, help="0 takes a free one and prints it (default %(default)s)")
    add("--admin-port", type=_port, help="a second port for /sim/faults alone, which no fault touches")
    add("--served-model-name", nargs="+", default=["sim"], metavar="NAME", help="names of the model; vLLM has several")
    add("--adapters", nargs="+", default=[], metavar="NAME", help="LoRA adapters to pretend to have (not TensorRT-LLM)")
    add("--task", choices=[str(task) for task in Task], default="generate", help="what the model is for")
    add("--load-time", type=_duration, default=0.0, metavar="TIME", help="how long it takes to get ready (default 0s)")
    add("--max-running", type=_positive, default=256, metavar="N", help="requests at the same time (default 256)")
    add("--max-queued", type=_natural, metavar="N", help="requests that may wait; without it any number")
    add("--api-key", metavar="KEY", help=f"ask for this Bearer key where the engine would (or {KEY_VARIABLE})")
    add("--keep-alive", type=_duration, default=5.0, metavar="TIME", help="close idle connections after (default 5s)")
    add("--can-sleep", action="store_true", help="as if started with the options that sleep takes (not TensorRT-LLM)")
    add("--access-log", action="store_true", help="a log line per request")


def _answering(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--context", type=_positive, default=8192, metavar="TOKENS", help="prompt and answer together (default 8192)")
    add("--ttft", type=_duration, default=0.02, metavar="TIME", help="time to first token (default 20ms)")
    add("--itl", type=_duration, default=0.005, metavar="TIME", help="time between tokens (default 5ms)")
    add("--text", default=PARAGRAPH, help="what every answer says (default: a readable paragraph)")
    add("--text-file", metavar="FILE", help="the same, from a file")
    add("--vocab-size", type=_vocabulary, default=32000, metavar="N", help="token ids are below this (default 32000)")
    add(
        "--reasoning", choices=[str(value) for value in Reasoning], default="asked",
        help="reason first: never (off), when asked (default), or unless told not to (always)",
    )  # fmt: skip
    add("--no-tools", dest="tools", action="store_false", help="as if started without a tool parser")
    add("--dimensions", type=_positive, default=256, metavar="N", help="of embeddings (default 256)")


def _fault_help() -> str:
    lines = [f"  {name:<21} {kind.help}" for name, kind in FAULTS.items()]
    return "\n".join(
        [
            "faults (--fault, or POST /sim/faults; GET lists, DELETE clears):",
            *lines,
            "",
            "signals: as the dialect's engine",
        ]
    )


def _port(text: str) -> int:
    return _between(text, 0, 65535)


def _natural(text: str) -> int:
    return _between(text, 0)


def _positive(text: str) -> int:
    return _between(text, 1)


def _vocabulary(text: str) -> int:
    return _between(text, MIN_VOCAB_SIZE)


def _between(text: str, lowest: int, highest: int | None = None) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < lowest or (highest is not None and number > highest):
        allowed = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is {allowed}")
    return number


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
