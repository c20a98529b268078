"""`berth fetch`: downloads the models of BERTH_MODELS in advance. Needs no GPU and no engine."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from berth.boot.checkpoints.cache import cached_snapshot, set_library_cache
from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.local import describe_directory
from berth.boot.checkpoints.sources import models_of, reads_files
from berth.boot.config import checkout
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Settings, load
from berth.errors import ConfigError, Problem
from berth.units import size

EXIT_USAGE = 2
RETRY_S = 600.0  # without a byte


def fetch(environ: Mapping[str, str], names: Sequence[str]) -> int:
    """All models, or those with these names or sources. Errors of any of them are reported before the first download.
    Results go to standard output, progress to standard error. The exit code; or ConfigError (no such model, no access,
    BERTH_OFFLINE), UnwritableError (no disk space, no write access), MachineError (the hub cannot be reached).
    """
    settings = load(environ, defaults=checkout.defaults(environ))
    if settings.offline:
        reason, allowed = "it forbids downloads", "0 for `berth fetch`"
        problem = Problem(
            variable="BERTH_OFFLINE", value="1", reason=reason, allowed=allowed, example="BERTH_OFFLINE=0"
        )
        raise ConfigError([problem])
    unknown = sorted(set(names) - {word for spec in settings.models for word in (spec.name, spec.source)})
    if unknown:
        known = ", ".join(spec.name for spec in settings.models)
        _print(f"berth fetch: unknown model {', '.join(unknown)}; BERTH_MODELS has: {known}", error=True)
        return EXIT_USAGE
    chosen = [spec for spec in settings.models if not names or {spec.name, spec.source} & set(names)]
    check_local_models(chosen)
    if any(models_of(spec) for spec in chosen):
        set_library_cache(settings.data_dir)
        for row in fetch_models(chosen, settings):
            _print(row)
    return 0


def check_local_models(specs: Sequence[ModelSpec]) -> None:
    """Reports models that need no download. ConfigError with all problems of local ones."""
    problems: list[Problem] = []
    for spec in specs:
        if not reads_files(spec):
            _print(f"{spec.name}: nothing to download, its engines are attached or simulated")
        elif Path(spec.source).is_absolute():
            try:
                info = describe_directory(spec.source)
            except ConfigError as error:
                problems += error.problems
            else:
                _print(f"{spec.name}: {spec.source} is a local model, {size(info.weights_bytes or 0)} of weights")
    if problems:
        raise ConfigError(problems)


def fetch_models(specs: Sequence[ModelSpec], settings: Settings) -> Iterator[str]:
    """Downloads the hub models of these specs; a line for each. ConfigError with all that makes them unusable."""
    from berth.boot.checkpoints import download, hub  # noqa: PLC0415 - takes 0.4 s, which only hub models should cost
    from berth.boot.checkpoints.progress_bar import amount  # noqa: PLC0415 - as above

    where = hub.Hub.of(settings)
    problems: list[Problem] = []
    for spec in specs:
        if reads_files(spec) and not Path(spec.source).is_absolute():
            try:
                hub.look_up(models_of(spec)[0], where)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    missing: list[HubModel] = []
    for model in dict.fromkeys(model for spec in specs for model in models_of(spec)):
        snapshot = cached_snapshot(where.cache_dir, model)
        try:
            if snapshot.complete:
                hub.listing(model, where)
            missing.append(model)
        except hub.OutOfReachError as error:
            note = f"the hub cannot be reached ({error}), newer revisions were not checked"
            yield f"{model.source}: complete in {snapshot.folder}; {note}"
    deadline = download.RetryDeadline(RETRY_S, download.report_to(sys.stderr))
    for done in download.download_models(missing, where, sys.stderr, deadline):
        new = f"{amount(done.new_bytes)} downloaded in {done.seconds:.0f} s" if done.new_bytes else "already complete"
        yield f"{done.source}: {done.files} files, {amount(done.total_bytes)} in {done.folder}; {new}"


def _print(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
