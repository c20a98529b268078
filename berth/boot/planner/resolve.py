"""Each model of BERTH_MODELS with what is known of it and the engines that shall serve it. All problems at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import EngineSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.engine_choice import advice, choose, obstacle
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.memory import guessed
from berth.boot.planner.placement import divides
from berth.errors import ConfigError, Problem
from berth.host.gpus import named
from berth.plan import Adapter, EngineName, Gpu, Task

UNMANAGED = frozenset({EngineName.REMOTE, EngineName.SIM})  # they take no memory and read no model
STRETCHING = ("rope", "hf-overrides", "json-model-override-args", "hf_overrides")  # options that lengthen a context


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    spec: ModelSpec
    entries: tuple[EngineSpec, ...]  # never empty
    reason: str  # why the first of them
    info: ModelInfo | None  # None: no engine of ours reads the model
    task: Task

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        if self.info is not None:
            return self.info.adapters
        return tuple(Adapter(name=spec.name, source=spec.source) for spec in self.spec.adapters)


def wanted_models(settings: Settings, here: HostInfo) -> tuple[ResolvedModel, ...]:
    """ConfigError with everything that is wrong with any of the models."""
    found: list[ResolvedModel] = []
    problems: list[Problem] = []
    for spec in settings.models:
        try:
            wanted = _wanted(spec, settings, here)
        except ConfigError as error:
            problems += [_placed_at(problem, spec) for problem in error.problems]
            continue
        problems += _problems(wanted, here)
        found.append(wanted)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _wanted(spec: ModelSpec, settings: Settings, here: HostInfo) -> ResolvedModel:
    if spec.engines and all(entry.engine in UNMANAGED for entry in spec.engines):
        task = spec.task or Task.GENERATE
        return ResolvedModel(spec=spec, entries=spec.engines, reason=_named(spec), info=None, task=task)
    info = guessed(here.describe(spec))
    task = spec.task or info.task
    info = replace(info, task=task)
    if spec.engines:
        return ResolvedModel(spec=spec, entries=spec.engines, reason=_named(spec), info=info, task=task)
    choice = choose(info, task, here.installed, settings.engines, here.inventory)
    return ResolvedModel(spec=spec, entries=(spec.chosen(choice.engine),), reason=choice.reason, info=info, task=task)


def _named(spec: ModelSpec) -> str:
    if spec.engines[0].engine == EngineName.REMOTE:
        return "attached by its URL"
    return "named in BERTH_MODELS"


def _placed_at(problem: Problem, spec: ModelSpec) -> Problem:
    """Says which of the models a problem is about."""
    if problem.variable != "BERTH_MODELS":
        return problem
    return replace(problem, variable=f"BERTH_MODELS: {spec.name}.source")


def _problems(wanted: ResolvedModel, here: HostInfo) -> list[Problem]:
    if wanted.info is None:
        return []
    checks: Sequence[Callable[[ResolvedModel, ModelInfo, HostInfo], list[Problem]]] = (
        _engine_problems,
        _context_problems,
        _count_problems,
        _gpu_problems,
    )
    return [problem for check in checks for problem in check(wanted, wanted.info, here)]


def _engine_problems(wanted: ResolvedModel, _info: ModelInfo, here: HostInfo) -> list[Problem]:
    able = [engine.value for engine in here.installed if not _obstacle(engine, wanted, here)]
    allowed = "".join(f"{engine}, " for engine in able) + advice(here.inventory)
    example = f"engines: [{(*able, 'sim')[0]}]"
    return [
        _problem(wanted, "engines", entry.engine.value, reason=why, allowed=allowed, example=example)
        for entry in wanted.entries
        if (why := _obstacle(entry.engine, wanted, here))
    ]


def _obstacle(engine: EngineName, wanted: ResolvedModel, here: HostInfo) -> str:
    if engine in UNMANAGED:
        return ""
    return obstacle(engine, wanted.task, here.installed, here.inventory, adapted=bool(wanted.adapters))


def _context_problems(wanted: ResolvedModel, info: ModelInfo, _here: HostInfo) -> list[Problem]:
    """An engine refuses to start with more than the model was made for, unless an option stretches it."""
    context, limit = wanted.spec.context, info.max_position
    stretched = any(word in argument for entry in wanted.entries for argument in entry.args for word in STRETCHING)
    if context is None or limit is None or context <= limit or stretched:
        return []
    reason = f"more than the {limit} tokens that the model was made for"
    return [
        _problem(wanted, "context", str(context), reason=reason, allowed=f"up to {limit}", example=f"context: {limit}")
    ]


def _count_problems(wanted: ResolvedModel, info: ModelInfo, _here: HostInfo) -> list[Problem]:
    gpus = wanted.spec.gpus
    count = len(gpus) if isinstance(gpus, tuple) else gpus or 1
    if divides(info, count):
        return []
    reason = f"the model's {info.heads} attention heads ({info.kv_heads} for keys) cannot be shared by {count} GPUs"
    able = [number for number in range(1, 17) if divides(info, number)]
    allowed = ", ".join(map(str, able))
    return [_problem(wanted, "gpus", str(gpus), reason=reason, allowed=f"{allowed} GPUs", example=f"gpus: {able[-1]}")]


def _gpu_problems(wanted: ResolvedModel, _info: ModelInfo, here: HostInfo) -> list[Problem]:
    gpus = here.inventory.gpus
    if not isinstance(wanted.spec.gpus, tuple) or not gpus:
        return []
    found = []
    seen: set[int] = set()
    for name in wanted.spec.gpus:
        gpu = named(gpus, name)
        if reason := _why_not(gpu, seen):
            allowed = ", ".join(f"{one.index} ({one.uuid})" for one in gpus if not one.mig) or "none"
            found.append(_problem(wanted, "gpus", str(name), reason=reason, allowed=allowed, example="gpus: 1"))
        seen |= {gpu.index} if gpu else set()
    return found


def _why_not(gpu: Gpu | None, seen: set[int]) -> str:
    if gpu is None:
        return "there is no such GPU here"
    if gpu.mig:
        return "this GPU is cut into MIG instances"
    return "this GPU is named twice" if gpu.index in seen else ""


def _problem(wanted: ResolvedModel, name: str, value: str, *, reason: str, allowed: str, example: str) -> Problem:
    variable = f"BERTH_MODELS: {wanted.spec.name}.{name}"
    return Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example)
