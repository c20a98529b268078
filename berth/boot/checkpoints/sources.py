"""All sources of a model: its own, its adapters, and the repositories in its engines' options."""

from dataclasses import replace
from pathlib import Path

from berth.boot.catalogue.entry import Entry
from berth.boot.catalogue.lookup import load
from berth.boot.checkpoints.files import READERS, HubModel, hub_models
from berth.boot.checkpoints.local import describe_directory
from berth.boot.checkpoints.lora import from_folder
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.checkpoints.rendering import rendered_call
from berth.boot.config.model_rules import SPECULATION_WORDS
from berth.boot.config.model_spec import AdapterSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.engines.lora import GUESSED_RANK
from berth.errors import ConfigError, Problem
from berth.plan import Adapter, Task
from berth.units import size


def models_of(spec: ModelSpec) -> tuple[HubModel, ...]:
    """Its hub repositories; none if all its engines are attached or simulated, which read no local files."""
    if not reads_files(spec):
        return ()
    args = [word for one in spec.engines for word in one.args]
    args += [word for one in spec.options.values() for word in one.args]
    return hub_models(spec.source, spec.revision, extra_sources(spec), args)


def extra_sources(spec: ModelSpec) -> tuple[str, ...]:
    """The hub repositories that are needed besides the model itself, each once."""
    adapters = (adapter.source for adapter in spec.adapters if not Path(adapter.source).is_absolute())
    draft = [] if spec.speculation in SPECULATION_WORDS or Path(spec.speculation).is_absolute() else [spec.speculation]
    return tuple(dict.fromkeys((*spec.extra_sources, *adapters, *draft)))


def reads_files(spec: ModelSpec) -> bool:
    return not spec.engines or any(entry.engine in READERS for entry in spec.engines)


def with_catalogue(info: ModelInfo, entry: Entry | None) -> ModelInfo:
    """With what the catalogue knows. The checkpoint's own files win: the catalogue only adds what they do not say."""
    if entry is None:
        return info
    info = replace(info, catalogue=entry, max_position=info.max_position or entry.model.context)
    variant = entry.variant(info.source)
    if info.weights_bytes is not None or variant is None or variant.weights_bytes is None:
        return info
    note = f"the size of its weights is from the catalogue ({size(variant.weights_bytes)})"
    return replace(info, weights_bytes=variant.weights_bytes, warnings=(*info.warnings, note))


class Sources:
    """Looks up the sources of models. Each is looked up once. ConfigError for an operator's catalogue that is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.catalogue = load(settings.catalogue)
        self._missing: dict[str, int] = {}
        self._own: dict[str, int] = {}  # of the models themselves
        self._models: dict[str, str] = {}  # the source that a model was last described with, by its name

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """ConfigError with all problems of the source, the adapters and the extra sources."""
        info, problems = None, list[Problem]()
        try:
            info = self._model(spec)
        except ConfigError as error:
            problems += error.problems
        for number, extra in enumerate(spec.extra_sources):
            try:
                from berth.boot.checkpoints import hub  # noqa: PLC0415 - takes 0.4 s, which only hub models should cost

                self._missing[extra] = hub.download_bytes(HubModel(source=extra), hub.Hub.of(self._settings)) or 0
            except ConfigError as error:
                variable = f"BERTH_MODELS: {spec.name}.extra_sources[{number}]"
                problems += [replace(problem, variable=variable) for problem in error.problems]
        adapters = []
        for adapter in spec.adapters:
            try:
                adapters.append(self._adapter(adapter))
            except ConfigError as error:
                variable = f"BERTH_MODELS: {spec.name}.adapters.{adapter.name}"
                problems += [replace(problem, variable=variable) for problem in error.problems]
        if info is None or problems:
            raise ConfigError(problems)
        warnings = list(info.warnings)
        if unknown := [adapter.name for adapter in adapters if adapter.rank is None]:
            guess = f"planned with ranks up to {GUESSED_RANK}"
            warnings.append(f"the hub cannot be reached: adapters not checked, {guess}: {', '.join(unknown)}")
        call = rendered_call(info.chat_template or "") if info.task is Task.GENERATE else ""
        info = replace(info, call=call, adapters=tuple(adapters), warnings=tuple(warnings))
        return with_catalogue(info, self.catalogue.find(info.source, info.base_models))

    def download_bytes(self) -> int:
        """The download size of everything described so far; of a model that was described with several sources, that of
        the last.
        """
        return sum(self._missing.values()) + sum(self._own[source] for source in set(self._models.values()))

    def _model(self, spec: ModelSpec) -> ModelInfo:
        if Path(spec.source).is_absolute():
            return describe_directory(spec.source)
        from berth.boot.checkpoints import hub  # noqa: PLC0415 - as above

        folder = Path(spec.source, "config.json").is_file()
        hint = f"a folder of that name exists here, './{spec.source}'" if folder else ""
        try:
            found = hub.look_up(models_of(spec)[0], hub.Hub.of(self._settings))
        except ConfigError as error:
            reasons = [f"{problem.reason}; {hint}" if hint else problem.reason for problem in error.problems]
            problems = zip(error.problems, reasons, strict=True)
            raise ConfigError([replace(problem, reason=reason) for problem, reason in problems]) from error
        self._own[spec.source] = found.missing_bytes or 0
        self._models[spec.name] = spec.source
        note = (f"{spec.source!r} is taken from the hub; {hint}",) if hint else ()
        return replace(found.info, warnings=(*found.info.warnings, *note))

    def _adapter(self, spec: AdapterSpec) -> Adapter:
        if Path(spec.source).is_absolute():
            return from_folder(spec, Path(spec.source))
        from berth.boot.checkpoints import hub  # noqa: PLC0415 - as above

        adapter, missing_bytes = hub.look_up_adapter(spec, hub.Hub.of(self._settings))
        self._missing[spec.source] = missing_bytes or 0
        return adapter
