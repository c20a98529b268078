"""Which repositories of the hub an engine reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath

from berth.plan import EngineName

READERS = frozenset({EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A repository of the hub, in one of its states."""

    source: str
    revision: str | None = None
    mistral: bool = False  # its engine loads Mistral's own format


def hub_models(
    source: str, revision: str | None, extra_sources: Sequence[str], args: Sequence[str]
) -> tuple[HubModel, ...]:
    """What has to be downloaded for an engine with these arguments: the model, unless it is a local path, and the
    further repositories that they name.
    """
    first = HubModel(source=source, revision=revision, mistral=_wants_mistral(args))
    models = () if PurePosixPath(source).is_absolute() else (first,)
    return (*models, *(HubModel(source=extra) for extra in extra_sources))


def _wants_mistral(args: Sequence[str]) -> bool:
    """`--load-format mistral`, `--load-format=mistral`, `--config-format mistral`"""
    following = zip_longest(args, args[1:], fillvalue="")
    pairs = [option.split("=", 1) if "=" in option else (option, word) for option, word in following]
    return any(option.endswith("-format") and word == "mistral" for option, word in pairs)
