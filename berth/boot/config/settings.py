"""Environment -> Settings.

`load` returns Settings, or raises ConfigError with all problems. `resolve` returns each value with its origin. Only the
environment passed in is read, and the files that its *_FILE variables name. The table of variables is in `variables`.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.models import masked_models
from berth.boot.config.nodes import node_problems
from berth.boot.config.parsers import AUTO_WORKERS, did_you_mean, read_value, unquoted
from berth.boot.config.route_checks import new_aliases, unknown_names
from berth.boot.config.variables import VARIABLES, EnvVar
from berth.errors import ConfigError, Problem
from berth.host.cgroup import available_cpus, workers_for
from berth.plan import LOCAL_ORIGINS, ApiKey, EngineName, Node, OpenTo, RoutingRule
from berth.plan.keys import digest
from berth.processes import APPLIANCE_MARKER, REPLICA_MARKER

OWN_MARKERS = frozenset(
    {APPLIANCE_MARKER, REPLICA_MARKER}
)  # Berth sets them for its own processes; they are not settings

UNSET = object()

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
    api_keys: tuple[ApiKey, ...] = field(default=(), repr=False)
    keys_file: str = ""  # that the API keys come from
    admin_key: str = field(default="", repr=False)
    hf_token: str = field(default="", repr=False)
    offline: bool = False
    fetch_hosts: tuple[str, ...] | None = None  # allowed for media URLs in requests; None: all public hosts
    cors_origins: tuple[str, ...] = (LOCAL_ORIGINS,)  # of web pages that may use Berth
    tls_cert: str = ""
    tls_key: str = ""
    open_to: OpenTo = OpenTo.PRIVATE
    trusted_proxies: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()  # the boxes that work together, this one included
    node: int | None = None  # which of them this is; None: the one whose address it has
    nodes_key: str = field(default="", repr=False)
    routes: tuple[RoutingRule, ...] = ()
    catalogue: str = ""  # the operator's own file of facts about models
    gpu_memory_fraction: float = 0.9  # of each GPU's total memory that Berth may allocate
    affinity: bool = True
    fork_engines: Literal["auto", "on", "off"] = "auto"  # from a process that has imported them
    revision: Literal["latest", "env"] = "latest"  # env: what migrations promoted does not count
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    request_log: bool = False
    metrics_key_labels: bool = True
    max_body_bytes: int = 32 * 2**20
    first_token_timeout_s: float = 300.0
    token_timeout_s: float = 60.0
    queue_timeout_s: float = 60.0
    queue_size: int = 256  # requests of one model
    client_stall_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0
    start_timeout_s: float = 1800.0
    restart_limit: int = 5  # failures of a replica within restart_window_s before it has failed permanently
    restart_window_s: float = 900.0
    otel_disabled: bool = False
    otel_endpoint: str = ""
    otel_traces_endpoint: str = ""
    otel_protocol: str = ""
    otel_traces_protocol: str = ""
    otel_headers: str = field(default="", repr=False)
    otel_service_name: str = "berth"
    otel_sampler: str = "parentbased_always_on"
    otel_sampler_ratio: float = 1.0


class Origin(StrEnum):
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedValue:
    text: str  # as given; "" if not set
    origin: Origin
    path: str = ""  # of the file


def load(
    environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None, cpus: float | None = None
) -> Settings:
    """The settings of an environment; ConfigError with all problems at once. `defaults` replaces those of the table,
    `cpus` defaults to the CPUs that the container may use.
    """
    fields: dict[str, Any] = {}
    problems, invalid = _unknown(environ), set()
    for var in VARIABLES:
        try:
            given = _read(var, environ, defaults or {})
            value = _parse(var, given)
        except ConfigError as exc:
            problems += exc.problems
            invalid.add(var.field)
        else:
            if value is not UNSET:
                fields[var.field] = value
            if var.field == "api_keys" and given.path:
                fields["keys_file"] = os.path.abspath(given.path)  # noqa: PTH100 - as parsers.absolute_path
    problems += node_problems(fields, {problem.variable for problem in problems})
    problems += _contradictions(fields, invalid)
    if problems:
        raise ConfigError(problems)
    settings = Settings(**fields)
    if settings.workers == AUTO_WORKERS:
        workers = workers_for(available_cpus() if cpus is None else cpus)
        settings = dataclasses.replace(settings, workers=workers)
    return settings


def _contradictions(fields: Mapping[str, Any], invalid: Collection[str] = ()) -> list[Problem]:
    """What is wrong with variables that are valid each by itself. `invalid`: the fields of those that are not."""
    problems = []
    by_field = {var.field: var for var in VARIABLES}
    keys: tuple[ApiKey, ...] = fields.get("api_keys", ())
    if any(digest(fields.get("admin_key", "")) in key.digests for key in keys):
        reason = "also one of BERTH_API_KEYS: every client could stop the models"
        problems.append(_problem(by_field["admin_key"], "***", reason))
    if "models" in fields:
        models: tuple[ModelSpec, ...] = fields["models"]
        adapters = [adapter.name for one in models for adapter in one.adapters]
        names = [*(name for one in models for name in (one.name, *one.aliases)), *adapters]
        rules: tuple[RoutingRule, ...] = fields.get("routes", ())
        problems += unknown_models(keys, [*names, *new_aliases(rules, models)])
        if "api_keys" not in invalid:
            problems += unknown_names(rules, models, keys)
    if bool(fields.get("tls_cert")) != bool(fields.get("tls_key")):
        missing, given = ("tls_key", "tls_cert") if fields.get("tls_cert") else ("tls_cert", "tls_key")
        problems.append(_problem(by_field[missing], "", f"not set, and {by_field[given].name} is"))
    if fields.get("open_to") is OpenTo.NONE and not keys:
        reason = "not set, and BERTH_OPEN_TO=none allows no client without keys"
        problems.append(_problem(by_field["api_keys"], "", reason))
    traces = (fields.get("otel_endpoint") or fields.get("otel_traces_endpoint")) and not fields.get("otel_disabled")
    name = "otel_traces_protocol" if fields.get("otel_traces_protocol") else "otel_protocol"
    if traces and (protocol := fields.get(name)) not in (None, by_field[name].allowed):
        problems.append(_problem(by_field[name], protocol, "traces are sent over HTTP: name the collector's HTTP port"))
    if fields.get("offline") and fields.get("fetch_hosts"):
        reason = "BERTH_OFFLINE=1 forbids engines to fetch anything"
        problems.append(_problem(by_field["fetch_hosts"], ",".join(fields["fetch_hosts"]), reason))
    return problems


def unknown_models(keys: Iterable[ApiKey], names: Sequence[str]) -> list[Problem]:
    """Of keys that may use models which are not there. `names`: those that are."""
    return [
        Problem(
            variable=f"BERTH_API_KEYS: {key.name}.models",
            value=name,
            reason=f"unknown model{did_you_mean(name, names)}",
            allowed=", ".join(names),
            example=f"models: [{names[0]}]",
        )
        for key in keys
        for name in key.models
        if name not in names
    ]


def resolve(environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None) -> dict[str, ResolvedValue]:
    """Every variable of the table, in its order, with its origin; secrets masked. ConfigError if one cannot be read."""
    problems = _unknown(environ)
    values = {}
    for var in VARIABLES:
        try:
            value = _read(var, environ, defaults or {})
        except ConfigError as exc:
            problems += exc.problems
        else:
            values[var.name] = dataclasses.replace(value, text=_masked(var, value))
    if problems:
        raise ConfigError(problems)
    return values


def run_dir(environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None) -> str:
    """Only the run directory, for programs that inspect a running appliance."""
    var = next(var for var in VARIABLES if var.field == "run_dir")
    return str(_parse(var, _read(var, environ, defaults or {})))


def _read(var: EnvVar, environ: Mapping[str, str], defaults: Mapping[str, str]) -> ResolvedValue:
    """The text of a variable, secrets included. An empty value counts as not set: Compose files pass those. Quotes
    around a value count as the shell's: `docker run --env-file` keeps them, Compose does not.
    """
    text = unquoted(environ.get(var.name, ""))
    path = unquoted(environ.get(var.file_name, "")) if var.from_file else ""
    if text and path:
        raise ConfigError([_file_problem(var, path, f"{var.name} is set too")])
    if path:
        try:
            return ResolvedValue(text=unquoted(read_value(path)), origin=Origin.FILE, path=path)
        except ValueError as exc:
            raise ConfigError([_file_problem(var, path, str(exc))]) from exc
    if text:
        return ResolvedValue(text=text, origin=Origin.ENVIRONMENT)
    return ResolvedValue(text=defaults.get(var.name, "") or var.default or "", origin=Origin.DEFAULT)


def _parse(var: EnvVar, value: ResolvedValue) -> Any:
    """The value of its field, or UNSET. ConfigError with all that is wrong with it."""
    if not value.text:
        if var.required:
            raise ConfigError([_problem(var, "", "not set")])
        return UNSET
    if re.search("[\ud800-\udfff]", value.text):  # how Python decodes bytes that are not UTF-8
        raise ConfigError([_problem(var, _masked(var, value), "not UTF-8 text")])
    try:
        return var.parse(value.text)
    except ValueError as exc:
        raise ConfigError([_problem(var, _masked(var, value), str(exc))]) from exc


def _unknown(environ: Mapping[str, str]) -> list[Problem]:
    """A problem for every unknown BERTH_* variable. Values are not shown: they may be misspelt secrets."""
    known = {var.name for var in VARIABLES} | {var.file_name for var in VARIABLES if var.from_file}
    problems = []
    for name in sorted(name for name, text in environ.items() if name.startswith("BERTH_") and text.strip()):
        if name in known | OWN_MARKERS:
            continue
        if _KUBERNETES.fullmatch(name):
            reason = "set by Kubernetes for a service named berth; set enableServiceLinks: false for the pod"
        elif name.endswith("_FILE") and name.removesuffix("_FILE") in known:
            reason = "only secrets, BERTH_MODELS and BERTH_ROUTES can be given as a file"
        else:
            reason = f"unknown variable{did_you_mean(name, sorted(known), prefix='BERTH_')}"
        allowed, example = "the variables that `berth env` prints", "BERTH_MODELS=Qwen/Qwen3-8B"
        problems.append(Problem(variable=name, value="", reason=reason, allowed=allowed, example=example))
    return problems


def _masked(var: EnvVar, value: ResolvedValue) -> str:
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
