"""Holds everything that Berth can write for an engine against a snapshot of that engine. No I/O."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from berth.engines.base import LaunchOrder
from berth.engines.model_parsers import known_names
from berth.plan import EngineName, Launch
from etc.tools.contract.launches import launches
from etc.tools.contract.parser import RefusedError, SnapshotParser
from etc.tools.contract.table import Deprecation, Option, Snapshot
from etc.tools.contract.targets import BY_NAME, Target

# Variables that need not stand in an engine's source, and why.
EXCUSED = {
    "PATH": "the system's: where programs are found",
    "HOME": "the system's: where everything is kept that has no variable of its own",
    "PYTHONUNBUFFERED": "Python's",
    "CUDA_CACHE_PATH": "the CUDA driver's",
    "CUDA_DEVICE_ORDER": "the CUDA driver's",
    "CUDA_VISIBLE_DEVICES": "the CUDA driver's",
    "NCCL_SOCKET_IFNAME": "NCCL's",
    "GLOO_SOCKET_IFNAME": "Gloo's, in PyTorch",
    "RAY_ADDRESS": "Ray's",
    "RAY_AUTH_MODE": "Ray's",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "OpenTelemetry's, by its specification",
    "OTEL_SERVICE_NAME": "OpenTelemetry's, by its specification",
    "TRTLLM_NO_USAGE_STATS": "ahead of its time: TensorRT-LLM's reports came to its main branch after 1.2 had left it",
}
YAML_TYPES: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (float, int), "": (str,)}
PARSER_FLAGS = ("--tool-call-parser", "--tool_parser"), ("--reasoning-parser", "--reasoning_parser")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Everything that Berth writes for one engine, each once."""

    launches: tuple[tuple[LaunchOrder, Launch], ...]
    variables: frozenset[str]

    def command_lines(self) -> list[list[str]]:
        return [command_line(launch) for _, launch in self.launches]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    problems: tuple[str, ...] = ()  # the engine would end at once, or not do what was meant
    warnings: tuple[str, ...] = ()  # what will not work for ever


@cache  # some hundreds of launches, the same at each call
def written(target: Target) -> Written:
    pairs: dict[tuple[str, ...], tuple[LaunchOrder, Launch]] = {}
    names: set[str] = set()
    for order, launch in launches(target):
        pairs.setdefault((*launch.argv, *launch.files.values()), (order, launch))
        names |= {*launch.env, launch.key_variable} - {""}
    return Written(launches=tuple(pairs.values()), variables=frozenset(names))


def command_line(launch: Launch) -> list[str]:
    """What follows `serve`. SGLang puts what its configuration file says in front: so do we, for a file of Berth's."""
    words = list(launch.argv[2:])
    paths = [path for path in launch.key_files if path in words]
    if not paths:
        return words
    place = words.index(paths[0])
    fields = document(launch.key_files[paths[0]].format(key="of-the-replica"))
    merged = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    return [*merged, *words[: place - 1], *words[place + 1 :]]


@cache
def document(text: str) -> dict[str, Any]:
    """The same few texts stand in thousands of launches."""
    fields: dict[str, Any] = yaml.safe_load(text)
    return fields


def check(target: Target, snapshot: Snapshot, all_written: Written, used_elsewhere: Collection[str] = ()) -> Verdict:
    """`used_elsewhere`: variables that this engine may get without a use, since another has one."""
    lines = all_written.command_lines()
    parser = SnapshotParser(snapshot, frozenset(itertools.chain.from_iterable(lines)))
    complaints: Counter[str] = Counter()
    for (order, launch), line in zip(all_written.launches, lines, strict=True):
        complaints.update(set(_of_command_line(parser, order, launch, line)) | set(_of_yaml(snapshot, launch)))
    problems = [f"{text} ({count} of {len(lines)} command lines)" for text, count in complaints.items()]
    problems += [
        *_of_variables(snapshot, all_written.variables - set(used_elsewhere)),
        *_of_parser_names(snapshot, target.engine),
    ]
    return Verdict(problems=tuple(problems), warnings=tuple(_deprecated(snapshot, own_flags(all_written))))


def used_elsewhere(target: Target, snapshots: Iterable[Snapshot], everything: Mapping[str, Written]) -> frozenset[str]:
    """Variables that `target` gets because it gets what others do: the engine's other builds, or all engines."""
    alike = frozenset.intersection(*(each.variables for each in everything.values()))
    others = [snapshot for snapshot in snapshots if snapshot.engine != target.name]
    builds = [snapshot for snapshot in others if BY_NAME[snapshot.engine].engine is target.engine]
    return found(builds) | (found(others) & alike)


def found(snapshots: Iterable[Snapshot]) -> frozenset[str]:
    return frozenset(name for snapshot in snapshots for name, places in snapshot.variables.items() if places)


def own_flags(all_written: Written) -> frozenset[str]:
    """The flags and keys that Berth writes itself, without those that stand for a user's."""
    own = [launch for order, launch in all_written.launches if not order.extra_args]
    flags = {word for launch in own for word in command_line(launch) if word.startswith("-")}
    keys = {key for launch in own for text in launch.files.values() for key, _ in flat(document(text))}
    return frozenset(flags | keys)


def _of_command_line(parser: SnapshotParser, order: LaunchOrder, launch: Launch, line: Sequence[str]) -> Iterator[str]:
    if launch.argv[1] != "serve":
        yield f"{launch.argv[1]!r} instead of 'serve'"
    try:
        read = vars(parser.read(line))
    except RefusedError as error:
        yield str(error)
        return
    model = read.get("model_tag") or read.get("model_path") or read.get("model")
    meant: dict[str, object] = {"host": order.host, "port": order.port}
    if order.socket:
        meant = {"uds": order.socket}
    found = {"model": launch.links.get(str(model), model), **{name: read.get(name) for name in meant}}
    meant["model"] = order.source
    yield from (f"the {name} is read as {found[name]!r}" for name, value in meant.items() if found[name] != value)


def _of_yaml(snapshot: Snapshot, launch: Launch) -> Iterator[str]:
    known = {option.dest: option for option in snapshot.yaml}
    for text in launch.files.values():
        for key, value in flat(document(text)):
            yield from _of_key(known.get(key), key, value)


def _of_key(option: Option | None, key: str, value: Any) -> Iterator[str]:
    if option is None:
        yield f"the options file has {key!r}, which is no key"
    elif not isinstance(value, YAML_TYPES[option.type]) or (isinstance(value, bool) and option.type != "bool"):
        yield f"the options file has {value!r} for {key!r}, which takes {option.type or 'text'}"
    elif option.choices and value not in option.choices:
        yield f"the options file has {value!r} for {key!r}, which takes {', '.join(map(str, option.choices))}"


def flat(document: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys with dots between."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _of_variables(snapshot: Snapshot, names: Iterable[str]) -> Iterator[str]:
    for name in sorted(set(names) - set(EXCUSED)):
        if name not in snapshot.variables:
            yield f"nobody has looked for the variable {name} yet: make contract ENGINE={snapshot.engine}"
        elif not snapshot.variables[name]:
            yield f"the variable {name} occurs nowhere in the source of {snapshot.title} and what belongs to it"


def _of_parser_names(snapshot: Snapshot, engine: EngineName) -> Iterator[str]:
    """Of all models, those of no launch too."""
    known = known_names(engine)
    for names, flags in zip((known.tool, known.reasoning), PARSER_FLAGS, strict=True):
        known_to_it = {
            str(choice) for option in snapshot.options if set(flags) & set(option.flags) for choice in option.choices
        }
        for name in sorted(set((names or "").split(",")) - known_to_it):
            yield f"{' or '.join(flags)} has no {name!r}"


def _deprecated(snapshot: Snapshot, flags: Iterable[str]) -> Iterator[str]:
    for option in snapshot.options:
        if option.deprecated is not Deprecation.NONE and set(option.flags) & set(flags):
            yield f"{option.name} is deprecated"
