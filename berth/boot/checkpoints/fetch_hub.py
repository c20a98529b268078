"""The hub's part of `berth fetch`. Importing this module takes half a second."""

import sys
from collections.abc import Iterator, Sequence

from berth.boot.checkpoints.cache import stock
from berth.boot.checkpoints.download import Downloaded, Patience, make_whole, say_to
from berth.boot.checkpoints.hub import Hub, OutOfReachError, listing, look_up
from berth.boot.checkpoints.hub_files import HubModel
from berth.boot.checkpoints.progress_bar import amount
from berth.boot.checkpoints.sources import models_of
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Settings
from berth.errors import ConfigError, Problem

PATIENCE_S = 600.0  # without a byte


def fetch_models(wanted: Sequence[HubModel], specs: Sequence[ModelSpec], settings: Settings) -> Iterator[str]:
    """A line for each of `wanted` when all are there. `specs`: those of them that are models, not parts of one."""
    hub = Hub.of(settings)
    _require_servable(specs, hub)
    enough = {model: note for model in wanted if (note := _why_enough(model, hub))}
    yield from enough.values()
    missing = [model for model in wanted if model not in enough]
    yield from map(_row, make_whole(missing, hub, sys.stderr, Patience(PATIENCE_S, say_to(sys.stderr))))


def _require_servable(specs: Sequence[ModelSpec], hub: Hub) -> None:
    """ConfigError with all that the hub has against these models."""
    problems: list[Problem] = []
    for spec in specs:
        try:
            look_up(models_of(spec)[0], hub)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _why_enough(model: HubModel, hub: Hub) -> str:
    """Of a model that is whole here, and whose newer state nobody can look up now; "" for any other."""
    here = stock(hub.cache_dir, model)
    if not here.whole:
        return ""
    try:
        listing(model, hub)
    except OutOfReachError as error:
        return (
            f"{model.source}: whole in {here.folder}; the hub is out of reach ({error}), so not looked for a newer one"
        )
    return ""


def _row(done: Downloaded) -> str:
    new = f"{amount(done.new_bytes)}B downloaded in {done.seconds:.0f} s" if done.new_bytes else "all was there"
    return f"{done.source}: {done.files} files, {amount(done.total_bytes)}B in {done.folder}; {new}"
