"""ModelSpec -> ResolvedModel: each model of BERTH_MODELS with its metadata and its engines. All problems at once."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.checkpoints.sources import extra_sources
from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.engine_choice import advice, choose, unsupported_reason
from berth.boot.planner.fit.gpu_request import divides
from berth.boot.planner.fit.memory import guessed
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.model_options import (
    Case,
    candidates,
    drafted,
    known_speculation,
    options_of,
    reasons_against,
    speculation_of,
    with_options,
)
from berth.boot.planner.remote_code import code_problems
from berth.engines.base import ModelOptions, Speculation
from berth.errors import ConfigError, Problem
from berth.host.gpus import named
from berth.plan import Adapter, EngineName, Task
from berth.units import size

UNMANAGED = frozenset({EngineName.REMOTE, EngineName.SIM})  # they take no memory and read no model
STRETCHING = ("rope", "hf-overrides", "json-model-override-args", "hf_overrides")  # options that extend a context


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    spec: ModelSpec
    entries: tuple[EngineSpec, ...]  # never empty
    reason: str  # why the first of them
    info: ModelInfo | None  # None: no engine of this host reads the model
    task: Task
    options: ModelOptions = field(default_factory=ModelOptions)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        if self.info is not None:
            return self.info.adapters
        return tuple(Adapter(name=spec.name, source=spec.source) for spec in self.spec.adapters)

    @property
    def extra_sources(self) -> tuple[str, ...]:
        """The hub repositories that its engines read besides the model itself, each once."""
        draft = self.options.speculation.source if self.options.speculation else ""
        drafts = [draft] if draft and not Path(draft).is_absolute() else []
        return tuple(dict.fromkeys((*extra_sources(self.spec), *drafts)))

    @property
    def vocab_size(self) -> int | None:
        return self.info.vocab_size if self.info else None


def resolve_models(settings: Settings, host: HostInfo) -> tuple[ResolvedModel, ...]:
    """ConfigError with everything that is wrong with any of the models."""
    models: list[ResolvedModel] = []
    problems: list[Problem] = []
    for spec in settings.models:
        try:
            model = resolve_model(spec, settings, host)
        except ConfigError as error:
            problems += [
                replace(problem, variable=f"BERTH_MODELS: {spec.name}.source")
                if problem.variable == "BERTH_MODELS"
                else problem
                for problem in error.problems
            ]
            continue
        models.append(model)
        if model.info is not None:
            problems += engine_problems(model, host)
            problems += context_problems(model, model.info)
            problems += count_problems(model, model.info)
            problems += option_problems(model, model.info, host)
            problems += gpu_problems(model, host)
            problems += code_problems(spec, model.entries, model.info, host)
        problems += url_problems(model, settings, host)
    if problems:
        raise ConfigError(problems)
    return tuple(models)


def resolve_model(spec: ModelSpec, settings: Settings, host: HostInfo) -> ResolvedModel:
    """The model with the engines that the user named, else with the first one that can serve it."""
    attached = spec.engines and spec.engines[0].engine is EngineName.REMOTE
    reason = "attached by its URL" if attached else "named in BERTH_MODELS"
    if spec.engines and all(entry.engine in UNMANAGED for entry in spec.engines):
        task, entries = spec.task or Task.GENERATE, spec.engines * spec.replicas
        return ResolvedModel(spec=spec, entries=entries, reason=reason, info=None, task=task)
    info = guessed(host.describe(spec))
    task = spec.task or info.task
    info = replace(info, task=task)
    entries = spec.engines
    if not entries:
        adapted = bool(info.adapters or spec.adapter_slots)
        order = [one for one in settings.engines if spec.nodes == 1 or one is not EngineName.TRTLLM]
        engine, reason = choose(info, task, host.installed, order, host.inventory, adapted=adapted)
        entries = (spec.chosen(engine),)
        if spec.auto:
            others = [one for one in settings.engines if one != engine]
            able = [
                one
                for one in others
                if not unsupported_reason(one, task, host.installed, host.inventory, adapted=adapted)
            ]
            entries = (*entries, *map(spec.chosen, able))
    speculation, draft = speculation_for(spec, info, host)
    options = options_of(spec, info, speculation)
    info = with_options(info, options, entries, draft)
    entries *= spec.replicas
    return ResolvedModel(spec=spec, entries=entries, reason=reason, info=info, task=task, options=options)


def speculation_for(spec: ModelSpec, info: ModelInfo, host: HostInfo) -> tuple[Speculation | None, ModelInfo | None]:
    """How further tokens are predicted, and the draft model where that has a checkpoint of its own. ConfigError where
    that one cannot be served.
    """
    known = known_speculation(info)
    speculation = speculation_of(spec.speculation, info, known=known)
    if speculation is None or not speculation.source:
        return speculation, None
    try:
        draft = guessed(host.describe(ModelSpec(name=spec.name, source=speculation.source)))
    except ConfigError as error:
        variable = f"BERTH_MODELS: {spec.name}.speculation"
        raise ConfigError([replace(problem, variable=variable) for problem in error.problems]) from error
    found = drafted(draft, origin=speculation.origin)
    return (replace(found, tokens=speculation.tokens) if speculation == known else found), draft


def engine_problems(model: ResolvedModel, host: HostInfo) -> list[Problem]:
    """Of engines that cannot serve the model here."""

    def reason(engine: EngineName) -> str:
        if engine in UNMANAGED:
            return ""
        adapted = bool(model.adapters or model.spec.adapter_slots)
        return unsupported_reason(engine, model.task, host.installed, host.inventory, adapted=adapted)

    able = [engine.value for engine in host.installed if not reason(engine)]
    allowed = "".join(f"{engine}, " for engine in able) + advice(host.inventory)
    example = f"engines: [{(*able, 'sim')[0]}]"
    return [
        _problem(model, "engines", entry.engine.value, reason=why, allowed=allowed, example=example)
        for entry in model.entries
        if (why := reason(entry.engine))
    ]


def context_problems(model: ResolvedModel, info: ModelInfo) -> list[Problem]:
    """An engine does not start with a context above the model's limit, unless an option extends it."""
    context, limit = model.spec.context, info.max_position
    stretched = any(word in argument for entry in model.entries for argument in entry.args for word in STRETCHING)
    if context is None or limit is None or context <= limit or stretched:
        return []
    reason = f"more than the {limit} tokens that the model was made for"
    return [
        _problem(model, "context", str(context), reason=reason, allowed=f"up to {limit}", example=f"context: {limit}")
    ]


def count_problems(model: ResolvedModel, info: ModelInfo) -> list[Problem]:
    """A number of GPUs that the attention heads cannot be divided among."""
    gpus = model.spec.gpus
    count = len(gpus) // model.spec.replicas if isinstance(gpus, tuple) else gpus or 1
    if divides(info, count):
        return []
    heads = f"{info.heads} attention heads ({info.kv_heads} for keys)"
    able = [number for number in range(1, 17) if divides(info, number)]
    return [
        _problem(
            model,
            "gpus",
            str(gpus),
            reason=f"the model's {heads} cannot be divided among {count} GPUs",
            allowed=f"{', '.join(map(str, able))} GPUs",
            example=f"gpus: {able[-1]}",
        )
    ]


def option_problems(model: ResolvedModel, info: ModelInfo, host: HostInfo) -> list[Problem]:
    """Of settings that an engine of the model, or one of the GPUs that it may get, cannot have."""
    spec, gpus, problems = model.spec, candidates(model.spec, host.inventory.gpus), []
    values = {
        "speculation": spec.speculation,
        "kv_dtype": str(spec.kv_dtype),
        "text_only": str(spec.text_only).lower(),
        "kv_offload": size(spec.kv_offload_bytes or 0),
    }
    for entry in model.entries:
        installed = host.installed.get(entry.engine)
        if installed is None:
            continue
        case = Case(spec=spec, info=info, options=model.options, entry=entry, gpus=gpus, cpu=installed.cpu)
        for setting, reason, allowed in reasons_against(case):
            example = f"{setting}: {allowed.partition(',')[0].partition(' ')[0]}"
            problems.append(_problem(model, setting, values[setting], reason=reason, allowed=allowed, example=example))
    return problems


def gpu_problems(model: ResolvedModel, host: HostInfo) -> list[Problem]:
    """Of GPUs that the user named."""
    gpus = host.inventory.gpus
    if not isinstance(model.spec.gpus, tuple) or not gpus:
        return []
    problems = []
    seen: set[int] = set()
    for name in model.spec.gpus:
        gpu = named(gpus, name)
        reason = ""
        if gpu is None:
            reason = "there is no such GPU here"
        elif gpu.mig:
            reason = "MIG is on for this GPU, and it has no instance"
        elif gpu.part_of is not None and len(model.spec.gpus) > model.spec.replicas:
            reason = "a model runs on one MIG instance, not on several"
        elif gpu.index in seen:
            reason = "this GPU is named twice"
        if reason:
            allowed = ", ".join(f"{one.index} ({one.uuid})" for one in gpus if not one.mig) or "none"
            problems.append(_problem(model, "gpus", str(name), reason=reason, allowed=allowed, example="gpus: 1"))
        seen |= {gpu.index} if gpu else set()
    return problems


def url_problems(model: ResolvedModel, settings: Settings, host: HostInfo) -> list[Problem]:
    """Of URLs that lead back to this Berth, which would send each request to itself."""
    problems = []
    for text in (entry.url for entry in model.entries if entry.url is not None):
        url = urlsplit(text)
        port = url.port or (443 if url.scheme == "https" else 80)
        if port == settings.port and host.reaches(url.hostname or "", settings.host):
            reason = f"Berth itself listens there ({settings.host}:{settings.port}), and would send requests to itself"
            example = "engines: [{url: 'http://10.0.0.2:8000/v1'}]"
            allowed = "the URL of another server"
            problems.append(_problem(model, "engines", text, reason=reason, allowed=allowed, example=example))
    return problems


def _problem(model: ResolvedModel, name: str, value: str, *, reason: str, allowed: str, example: str) -> Problem:
    variable = f"BERTH_MODELS: {model.spec.name}.{name}"
    return Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example)
