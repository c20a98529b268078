"""From the environment to Settings.

`load` gives Settings, or raises ConfigError with every problem. `resolve` tells where each value came from. Only the
environment that is passed in is read, and the files that its *_FILE variables name. The table is in `variables`.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.models import masked_models
from berth.boot.config.parsers import did_you_mean, read_value
from berth.boot.config.variables import AUTO_WORKERS, VARIABLES, EnvVar
from berth.errors import ConfigError, Problem
from berth.host.cgroup import available_cpus, workers_for
from berth.plan import EngineName
from berth.processes import APPLIANCE_MARKER, REPLICA_MARKER

OWN_MARKERS = frozenset({APPLIANCE_MARKER, REPLICA_MARKER})  # set by Berth for its processes, and never settings

_KUBERNETES = re.compile(r"BERTH_(SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP)).*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parsed environment. Sizes in bytes, times in seconds, paths absolute."""

    models: tuple[ModelSpec, ...]
    host: str = "0.0.0.0"
    port: int = 8000
    workers: int = 1
    data_dir: str = "/data"
    run_dir: str = "/run/berth"
    engine_home: str = "/opt/engines"  # <engine_home>/<engine>/bin/python
    engines: tuple[EngineName, ...] = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_key: str = field(default="", repr=False)
    hf_token: str = field(default="", repr=False)
    offline: bool = False
    fetch_hosts: tuple[str, ...] | None = None  # that engines may fetch from for clients; None: all that are public
    gpu_memory_fraction: float = 0.9  # of each GPU's total memory that Berth may plan with
    affinity: bool = True
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    request_log: bool = False
    max_body_bytes: int = 256 * 2**20
    first_token_timeout_s: float = 300.0
    token_timeout_s: float = 60.0
    queue_timeout_s: float = 60.0
    queue_size: int = 256  # requests of one model
    client_stall_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0
    start_timeout_s: float = 1800.0
    restart_limit: int = 5  # failures of a replica within restart_window_s that are for good
    restart_window_s: float = 900.0


class Origin(StrEnum):
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedValue:
    text: str  # as given; "" for not set; secrets as ***
    origin: Origin
    path: str = ""  # of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Every variable of the table, in its order."""

    values: dict[str, ResolvedValue]


def load(
    environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None, cpus: float | None = None
) -> Settings:
    """The settings of an environment; ConfigError with all problems at once. `defaults` replaces those of the table,
    `cpus` is counted where it is not given.
    """
    given, problems = _gather(environ, defaults or {})
    fields, more = _parse(given)
    problems += [*more, *_conflicts(fields)]
    if problems:
        raise ConfigError(problems)
    settings = Settings(**fields)
    if settings.workers == AUTO_WORKERS:
        workers = workers_for(available_cpus() if cpus is None else cpus)
        settings = dataclasses.replace(settings, workers=workers)
    return settings


def resolve(environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None) -> Resolved:
    """What each variable is and where that came from, fit for showing. ConfigError where that cannot be told."""
    given, problems = _gather(environ, defaults or {})
    if problems:
        raise ConfigError(problems)
    return Resolved(values={var.name: dataclasses.replace(value, text=_shown(var, value)) for var, value in given})


def run_dir(environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None) -> str:
    """The run directory alone, for programs that look at an appliance which runs already."""
    var = next(var for var in VARIABLES if var.field == "run_dir")
    fields, problems = _parse([(var, _given(var, environ, defaults or {}))])
    if problems:
        raise ConfigError(problems)
    return str(fields[var.field])


def _gather(
    environ: Mapping[str, str], defaults: Mapping[str, str]
) -> tuple[list[tuple[EnvVar, ResolvedValue]], list[Problem]]:
    """The text of every variable, secrets included, and the problems in finding it."""
    given, problems = [], _unknown(environ)
    for var in VARIABLES:
        try:
            given.append((var, _given(var, environ, defaults)))
        except ConfigError as exc:
            problems += exc.problems
    return given, problems


def _given(var: EnvVar, environ: Mapping[str, str], defaults: Mapping[str, str]) -> ResolvedValue:
    """An empty value counts as not set: compose files pass those."""
    text = environ.get(var.name, "").strip()
    path = environ.get(var.file_name, "").strip() if var.from_file else ""
    if text and path:
        raise ConfigError([_file_problem(var, path, f"{var.name} is set too")])
    if path:
        try:
            return ResolvedValue(text=read_value(path), origin=Origin.FILE, path=path)
        except ValueError as exc:
            raise ConfigError([_file_problem(var, path, str(exc))]) from exc
    if text:
        return ResolvedValue(text=text, origin=Origin.ENVIRONMENT)
    return ResolvedValue(text=defaults.get(var.name, "") or var.default or "", origin=Origin.DEFAULT)


def _parse(given: list[tuple[EnvVar, ResolvedValue]]) -> tuple[dict[str, Any], list[Problem]]:
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for var, value in given:
        if not value.text:
            problems += [_problem(var, "", "not set")] if var.required else []
            continue
        try:
            fields[var.field] = _checked(var, value.text)
        except ConfigError as exc:
            problems += exc.problems
        except ValueError as exc:
            problems.append(_problem(var, _shown(var, value), str(exc)))
    return fields, problems


def _checked(var: EnvVar, text: str) -> Any:
    if re.search("[\ud800-\udfff]", text):  # how the environment shows bytes that are no text
        raise ValueError("not UTF-8 text")
    return var.parse(text)


def _conflicts(fields: Mapping[str, Any]) -> list[Problem]:
    """What variables say about each other."""
    by_field = {var.field: var for var in VARIABLES}
    problems = []
    if fields.get("admin_key") in fields.get("api_keys", ()):
        reason = "one of BERTH_API_KEYS too: every client could stop the models"
        problems.append(_problem(by_field["admin_key"], "***", reason))
    if fields.get("offline") and fields.get("fetch_hosts"):
        reason = "with BERTH_OFFLINE=1 nothing is fetched from anywhere"
        problems.append(_problem(by_field["fetch_hosts"], ",".join(fields["fetch_hosts"]), reason))
    return problems


def _unknown(environ: Mapping[str, str]) -> list[Problem]:
    """Variables that look like Berth's and are not. Their values are not shown: they may be misspelt secrets."""
    known = {var.name for var in VARIABLES} | {var.file_name for var in VARIABLES if var.from_file}
    unknown = sorted(name for name, text in environ.items() if name.startswith("BERTH_") and text.strip())
    return [
        Problem(
            variable=name,
            value="",
            reason=_unknown_reason(name, known),
            allowed="the variables that `berth env` prints",
            example="BERTH_MODELS=Qwen/Qwen3-8B",
        )
        for name in unknown
        if name not in known | OWN_MARKERS
    ]


def _unknown_reason(name: str, known: set[str]) -> str:
    if _KUBERNETES.fullmatch(name):
        return "set by Kubernetes for a service named berth; set enableServiceLinks: false for the pod"
    if name.endswith("_FILE") and name.removesuffix("_FILE") in known:
        return "only secrets and BERTH_MODELS can be given as a file"
    return f"no variable of Berth{did_you_mean(name, sorted(known), prefix='BERTH_')}"


def _shown(var: EnvVar, value: ResolvedValue) -> str:
    if var.secret and value.text:
        return "***"
    return masked_models(value.text) if var.field == "models" else value.text


def _problem(var: EnvVar, value: str, reason: str) -> Problem:
    return Problem(
        variable=var.name, value=value, reason=reason, allowed=var.allowed, example=f"{var.name}={var.example}"
    )


def _file_problem(var: EnvVar, path: str, reason: str) -> Problem:
    return Problem(
        variable=var.file_name,
        value=path,
        reason=reason,
        allowed=f"a readable text file, and only one of {var.name} and {var.file_name}",
        example=f"{var.file_name}=/run/secrets/{var.name.lower()}",
    )
