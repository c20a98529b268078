"""Everything that the engines of a model read: its source, its adapters, and what else its options name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from berth.boot.checkpoints.hub_files import READERS, HubModel, hub_models
from berth.boot.checkpoints.local import describe_directory
from berth.boot.checkpoints.lora import from_folder
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import AdapterSpec, ModelSpec
from berth.boot.config.settings import Settings
from berth.engines.lora import GUESSED_RANK
from berth.errors import ConfigError, Problem
from berth.plan import Adapter


def models_of(spec: ModelSpec) -> tuple[HubModel, ...]:
    """None of a model whose engines are all attached or simulated: they read no files of ours."""
    if not reads_files(spec):
        return ()
    args = [word for one in spec.engines for word in one.args]
    args += [word for one in spec.options.values() for word in one.args]
    return hub_models(spec.source, spec.revision, extra_sources(spec), args)


def extra_sources(spec: ModelSpec) -> tuple[str, ...]:
    """What of the hub is wanted beside the model itself, each once."""
    adapters = (adapter.source for adapter in spec.adapters if not Path(adapter.source).is_absolute())
    return tuple(dict.fromkeys((*spec.extra_sources, *adapters)))


def reads_files(spec: ModelSpec) -> bool:
    return not spec.engines or any(entry.engine in READERS for entry in spec.engines)


class Sources:
    """What boot learns of the models' sources. Each is looked up once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._missing: dict[str, int] = {}

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """ConfigError with what is wrong with the source, an adapter or any of the further ones."""
        info, problems = self._source(spec)
        for number, extra in enumerate(spec.extra_sources):
            variable = f"BERTH_MODELS: {spec.name}.extra_sources[{number}]"
            problems += [replace(problem, variable=variable) for problem in self._extra(HubModel(source=extra))]
        adapters = []
        for adapter in spec.adapters:
            try:
                adapters.append(self._adapter(adapter))
            except ConfigError as error:
                variable = f"BERTH_MODELS: {spec.name}.adapters.{adapter.name}"
                problems += [replace(problem, variable=variable) for problem in error.problems]
        if info is None or problems:
            raise ConfigError(problems)
        return replace(info, adapters=tuple(adapters), warnings=(*info.warnings, *_warnings(adapters)))

    def download_bytes(self) -> int:
        """Of everything that was described: what the disk must still take."""
        return sum(self._missing.values())

    def _source(self, spec: ModelSpec) -> tuple[ModelInfo | None, list[Problem]]:
        try:
            return self._described(spec), []
        except ConfigError as error:
            return None, list(error.problems)

    def _described(self, spec: ModelSpec) -> ModelInfo:
        if Path(spec.source).is_absolute():
            return describe_directory(spec.source)
        from berth.boot.checkpoints import hub  # noqa: PLC0415 - takes half a second, which only hub models should cost

        found = hub.look_up(models_of(spec)[0], hub.Hub.of(self._settings))
        self._missing[spec.source] = found.missing_bytes or 0
        return found.info

    def _adapter(self, spec: AdapterSpec) -> Adapter:
        if Path(spec.source).is_absolute():
            return from_folder(spec, Path(spec.source))
        from berth.boot.checkpoints import hub  # noqa: PLC0415 - as above

        adapter, missing_bytes = hub.look_up_adapter(spec, hub.Hub.of(self._settings))
        self._missing[spec.source] = missing_bytes or 0
        return adapter

    def _extra(self, model: HubModel) -> list[Problem]:
        from berth.boot.checkpoints import hub  # noqa: PLC0415 - as above

        try:
            self._missing[model.source] = hub.download_bytes(model, hub.Hub.of(self._settings)) or 0
        except ConfigError as error:
            return list(error.problems)
        return []


def _warnings(adapters: Sequence[Adapter]) -> list[str]:
    unknown = [adapter.name for adapter in adapters if adapter.rank is None]
    guess = f"planned with ranks up to {GUESSED_RANK}"
    return [f"the hub cannot be reached: adapters not checked, {guess}: {', '.join(unknown)}"] if unknown else []
