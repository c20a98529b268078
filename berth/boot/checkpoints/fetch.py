"""`berth fetch`: downloads ahead what BERTH_MODELS names. Needs no GPU and no engine."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from berth.boot.checkpoints.cache import keep_in
from berth.boot.checkpoints.local import describe_directory
from berth.boot.checkpoints.sources import models_of, reads_files
from berth.boot.config import checkout
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Settings, load
from berth.errors import ConfigError, Problem
from berth.units import size

EXIT_USAGE = 2


def fetch(environ: Mapping[str, str], names: Sequence[str]) -> int:
    """All models, or those of these names or sources. What is wrong with any of them is said before the first byte.
    Results go to standard output, progress to standard error. The exit code; or ConfigError (no such model, no access,
    BERTH_OFFLINE), UnwritableError (no room, no write access), MachineError (the hub is out of reach).
    """
    settings = load(environ, defaults=checkout.defaults(environ))
    _require_network(settings)
    unknown = sorted(set(names) - {word for spec in settings.models for word in (spec.name, spec.source)})
    if unknown:
        known = ", ".join(spec.name for spec in settings.models)
        _tell(f"berth fetch: BERTH_MODELS has no {', '.join(unknown)}. It has: {known}", error=True)
        return EXIT_USAGE
    chosen = [spec for spec in settings.models if not names or {spec.name, spec.source} & set(names)]
    _report_others(chosen)
    wanted = tuple(dict.fromkeys(model for spec in chosen for model in models_of(spec)))
    if wanted:
        keep_in(settings.data_dir)
        from berth.boot.checkpoints.fetch_hub import fetch_models  # noqa: PLC0415 - takes half a second: only for hub models

        for row in fetch_models(wanted, [spec for spec in chosen if _from_hub(spec)], settings):
            _tell(row)
    return 0


def _require_network(settings: Settings) -> None:
    if settings.offline:
        reason = "with it nothing is downloaded"
        problem = Problem(
            variable="BERTH_OFFLINE", value="1", reason=reason, allowed="0 for `berth fetch`", example="BERTH_OFFLINE=0"
        )
        raise ConfigError([problem])


def _from_hub(spec: ModelSpec) -> bool:
    return reads_files(spec) and not Path(spec.source).is_absolute()


def _report_others(specs: Sequence[ModelSpec]) -> None:
    """Models that are not the hub's: local ones are looked at. ConfigError with all that is wrong."""
    problems: list[Problem] = []
    for spec in specs:
        if not reads_files(spec):
            _tell(f"{spec.name}: its engines are attached or simulated, there is nothing to download")
        elif Path(spec.source).is_absolute():
            try:
                info = describe_directory(spec.source)
            except ConfigError as error:
                problems += error.problems
            else:
                _tell(f"{spec.name}: {spec.source} is a local model, {size(info.weights_bytes or 0)} of weights")
    if problems:
        raise ConfigError(problems)


def _tell(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
