"""Models that an engine loads only with Python code from the checkpoint. Berth never allows that by itself."""

import re
from collections.abc import Sequence

from berth.boot.checkpoints.files import READERS
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.planner.inputs import HostInfo
from berth.engines.cli_arguments import option
from berth.errors import Problem

FLAG = "--trust-remote-code"
COMMIT = re.compile(r"[0-9a-f]{40}")


def code_problems(spec: ModelSpec, entries: Sequence[EngineSpec], info: ModelInfo, host: HostInfo) -> list[Problem]:
    """One for each engine that needs the code and is not allowed to run it, with the line that allows it."""
    problems = []
    for entry in entries:
        parts = needed_parts(entry, info, host)
        if not parts or trusted(entry.args):
            continue
        installed = host.installed[entry.engine]
        engine = f"{entry.engine} {installed.version}"
        line = allowing_line(spec, info, entry)
        problems.append(
            Problem(
                variable=f"BERTH_MODELS: {spec.name}.source",
                value=spec.source,
                reason=f"{engine} has no code for its {' and '.join(parts)}: it would run the checkpoint's own",
                allowed=f"a model that {engine} knows, or, once you have read that code, the line in the example",
                example=line,
            )
        )
    return problems


def code_warnings(spec: ModelSpec, entries: Sequence[EngineSpec], info: ModelInfo, host: HostInfo) -> list[str]:
    """Code that is allowed, but may change; and a permission without need."""
    notes = []
    for entry in entries:
        if entry.engine not in READERS or not trusted(entry.args) or not (info.own_config or info.own_tokenizer):
            continue
        readable = host.knows_type(host.installed[entry.engine].home, info.model_type or "") is not None
        if readable and not needed_parts(entry, info, host):
            notes.append(
                f"{entry.engine} knows `{info.model_type}` without the checkpoint's code: {FLAG} is not needed"
            )
        elif not info.source.startswith("/") and not COMMIT.fullmatch(spec.revision or ""):
            pin = f"revision: {info.commit}" if info.commit else "revision: COMMIT"
            notes.append(f"{FLAG} runs code that its owner may change at any time: pin it with `{pin}`")
    return list(dict.fromkeys(notes))


def needed_parts(entry: EngineSpec, info: ModelInfo, host: HostInfo) -> tuple[str, ...]:
    """What the engine cannot read with its own code. What the catalogue says about this version wins; where the
    engine's code cannot be read, nothing is said, and the engine decides at its start.
    """
    if entry.engine not in READERS or not (info.own_config or info.own_tokenizer):
        return ()
    installed = host.installed[entry.engine]
    fact = info.catalogue.model.remote_code.get(entry.engine) if info.catalogue else None
    if fact and fact.version == installed.version:
        return ("model",) if fact.needed else ()
    known_type = host.knows_type(installed.home, info.model_type or "")
    parts = ["configuration"] if info.own_config and known_type is False else []
    if info.own_tokenizer and host.knows_tokenizer(installed.home, info.model_type or "", info.own_tokenizer) is False:
        parts.append("tokenizer")
    return tuple(parts)


def trusted(arguments: Sequence[str]) -> bool:
    """Whether the user's arguments allow the code."""
    given = option(arguments, FLAG)
    return given is not None and given.lower() not in ("false", "no", "0")


def allowing_line(spec: ModelSpec, info: ModelInfo, entry: EngineSpec) -> str:
    """With the commit that was looked up: what is read today is what runs tomorrow."""
    commit = spec.revision if COMMIT.fullmatch(spec.revision or "") else info.commit
    revision = f", revision: {commit}" if commit and not info.source.startswith("/") else ""
    fields = f"{{source: {spec.source}{revision}, {entry.engine}: {{args: [{FLAG}]}}}}"
    return f"BERTH_MODELS='{{{spec.name}: {fields}}}'"
