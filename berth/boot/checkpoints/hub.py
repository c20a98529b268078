"""Looks at a hub model before it is downloaded: in the hub's cache on this machine, then on the hub itself.

Without a network the answer is what is known, with warnings. What only the operator can put right (no such model, no
access) is a ConfigError. Importing this module takes half a second: only hub models pay for it.

Looks at a LoRA adapter of the hub before it is downloaded: in the cache on this machine, then on the hub.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar

from huggingface_hub import HfApi, get_session, get_token, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is what its HTTP library raises
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its exports are lazy

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.cache import Stock
from berth.boot.checkpoints.files import ADAPTER_CONFIG, listed, needed
from berth.boot.checkpoints.hub_files import HubModel
from berth.boot.checkpoints.local import documents, from_folder, refuse, refuse_unless_loadable
from berth.boot.checkpoints.lora import from_folder as adapter_from_folder
from berth.boot.checkpoints.lora import read
from berth.boot.checkpoints.metadata import CONFIG, ModelInfo, model_info, task_from_name
from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.settings import Settings
from berth.errors import ConfigError
from berth.plan import Adapter

EXAMPLE = "BERTH_MODELS=Qwen/Qwen3-8B"
ACCESS = "HF_TOKEN of an account that may read it (accept the model's terms on the hub first)"
ACCESS_EXAMPLE = "HF_TOKEN=hf_..."
OFFLINE_ALLOWED = (
    "a model that is whole there (`berth fetch` downloads it where there is a network, `berth export` and "
    "`berth import` carry it here), or a local directory"
)
OFFLINE_EXAMPLE = "docker run --rm -i -v berth:/data berth import < berth.tar"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """How the hub is reached. `endpoint` None: huggingface.co, or the mirror that HF_ENDPOINT names."""

    cache_dir: str  # where downloads lie
    offline: bool = False
    token: str = ""
    timeout_s: float = 5.0
    endpoint: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Hub":
        return cls(cache_dir=str(cache.hub_cache(settings.data_dir)), offline=settings.offline, token=settings.hf_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    name: str
    size: int | None
    blob: str  # what the cache calls its content
    sha256: str | None = None  # of a large file; small ones have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a model's revision, as the hub tells them."""

    commit: str
    files: tuple[HubFile, ...]

    @property
    def sizes(self) -> dict[str, int | None]:
        return {file.name: file.size for file in self.files}

    def needed(self, model: HubModel) -> tuple[HubFile, ...]:
        names = set(needed(self.sizes, mistral=model.mistral))
        return tuple(file for file in self.files if file.name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known of a hub model, and what its download would add to the disk. None: that is not known."""

    info: ModelInfo
    missing_bytes: int | None


class OutOfReachError(Exception):
    """The hub does not answer, or not with what it should."""


def describe(source: str, revision: str | None, hub: Hub) -> ModelInfo:
    """What is known of a hub model. Nothing is stored. ConfigError for one that cannot be served as it is."""
    return look_up(HubModel(source=source, revision=revision), hub).info


def look_up(model: HubModel, hub: Hub) -> Found:
    """The same with the size of its download. A model that is whole in the cache is not asked for."""
    require_id(model.source)
    stock = cache.stock(hub.cache_dir, model)
    if hub.offline:
        return _offline(model, hub)
    known = _cached(model.source, stock)
    if known is not None and known.local:
        return Found(info=known, missing_bytes=0)
    try:
        return _online(model, stock, hub)
    except OutOfReachError as error:
        info = known or ModelInfo(source=model.source, task=task_from_name(model.source))
        return Found(info=_unchecked(info, error), missing_bytes=None)


def download_bytes(model: HubModel, hub: Hub) -> int | None:
    """Of a repository that a model's engine needs too: what its download would add. ConfigError as for a model."""
    require_id(model.source)
    stock = cache.stock(hub.cache_dir, model)
    if stock.whole:
        return 0
    if hub.offline:
        require_whole(model, hub)
    try:
        return missing_bytes(model, listing(model, hub), stock.repository)
    except OutOfReachError:
        return None


def require_whole(model: HubModel, hub: Hub) -> Path:
    """The snapshot's folder; without a network, ConfigError with everything that the cache lacks of the model."""
    stock = cache.stock(hub.cache_dir, model)
    if stock.folder is None:
        revision = f" at revision {model.revision!r}" if model.revision else ""
        reason = f"is not in {hub.cache_dir}{revision}, and BERTH_OFFLINE forbids to download it"
        refuse(model.source, reason, OFFLINE_ALLOWED, OFFLINE_EXAMPLE)
    if not stock.whole:
        reason = f"lacks {listed(stock.missing)} in {stock.folder}, and BERTH_OFFLINE forbids to download it"
        refuse(model.source, reason, OFFLINE_ALLOWED, OFFLINE_EXAMPLE)
    return stock.folder


def missing_bytes(model: HubModel, listed_files: Listing, repository: Path) -> int:
    wanted = [(file.name, file.blob, file.size or 0) for file in listed_files.needed(model)]
    return sum(size for _, _, size in wanted) - cache.present_bytes(repository, listed_files.commit, wanted)


def listing(model: HubModel, hub: Hub) -> Listing:
    """ConfigError where the hub refuses, OutOfReachError where it does not answer."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token or None)

    def ask() -> Listing:
        found = api.model_info(model.source, revision=model.revision, timeout=hub.timeout_s, files_metadata=True)
        files = [
            HubFile(
                name=one.rfilename,
                size=one.size,
                blob=(one.lfs.sha256 if one.lfs else one.blob_id) or "",
                sha256=one.lfs.sha256 if one.lfs else None,
            )
            for one in found.siblings or ()
        ]
        if not found.sha:
            raise ValueError("its answer names no commit")
        return Listing(commit=found.sha, files=tuple(files))

    return asked(model.source, model.revision, ask)


def asked(source: str, revision: str | None, ask: Callable[[], Answer]) -> Answer:
    """The hub's answer. Its refusals are the operator's to mend; everything else means that it is out of reach."""
    try:
        return ask()
    except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        wrapped = isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception)
        _judge(source, revision, error.__cause__ if wrapped else error)


def _judge(source: str, revision: str | None, error: BaseException | None) -> NoReturn:
    if isinstance(error, OfflineModeIsEnabled):
        reason = "is not whole in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
        refuse(source, reason, "no HF_HUB_OFFLINE; BERTH_OFFLINE=1 is for models that are there", "HF_HUB_OFFLINE=")
    if isinstance(error, GatedRepoError):
        refuse(
            source, "is a gated model, and without a token that has access it cannot be read", ACCESS, ACCESS_EXAMPLE
        )
    if isinstance(error, RevisionNotFoundError):
        refuse(source, f"has no revision {revision!r}", "a branch, tag or commit of the model", "revision: main")
    if isinstance(error, RepositoryNotFoundError):
        refuse(source, "is not on the hub, or it is private", f"an id as the hub spells it, or {ACCESS}", EXAMPLE)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            refuse(source, f"was refused by the hub (HTTP {status})", ACCESS, ACCESS_EXAMPLE)
        raise OutOfReachError(f"HTTP {status}") from error
    raise OutOfReachError(_first_line(error)) from error


def require_id(source: str) -> None:
    """ConfigError for what cannot be an id of the hub."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        refuse(source, "is no id of a model on the hub", "OWNER/NAME, or an absolute path", EXAMPLE)


def _offline(model: HubModel, hub: Hub) -> Found:
    folder = require_whole(model, hub)
    try:
        return Found(info=from_folder(model.source, folder), missing_bytes=0)
    except OSError as error:
        refuse(model.source, f"cannot be read in {folder}: {error.strerror}", OFFLINE_ALLOWED, OFFLINE_EXAMPLE)


def _unchecked(known: ModelInfo, error: OutOfReachError) -> ModelInfo:
    if known.model_type is None:
        note = f"the hub cannot be reached ({error}): its size, task, context and access were not checked"
    else:
        note = f"the hub cannot be reached ({error}), and its weights are not all in the cache"
    return replace(known, warnings=(*known.warnings, note))


def _cached(source: str, stock: Stock) -> ModelInfo | None:
    """What the cache holds; not `local` where something is missing. None: nothing."""
    if stock.folder is None:
        return None
    try:
        return replace(from_folder(source, stock.folder), local=stock.whole)
    except (ConfigError, OSError):  # half a download: the hub has the rest
        return _partly(source, stock.folder / CONFIG)


def _partly(source: str, config: Path) -> ModelInfo | None:
    try:
        found = {CONFIG: json.loads(config.read_bytes())}
    except (ValueError, OSError, RecursionError):
        return None
    return model_info(source, found, {})


def _online(model: HubModel, stock: Stock, hub: Hub) -> Found:
    """Asks for the list of files and reads the small ones."""
    found = listing(model, hub)
    refuse_unless_loadable(model.source, found.sizes, "a model in the transformers format, with safetensors", EXAMPLE)
    read = documents(model.source, found.sizes, lambda name: fetch(model, name, hub))
    info = model_info(model.source, read, found.sizes)
    return Found(info=info, missing_bytes=missing_bytes(model, found, stock.repository))


def fetch(model: HubModel, name: str, hub: Hub) -> bytes:
    """One of its small files. ConfigError where the hub refuses, OutOfReachError where it does not answer."""
    token = hub.token or get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask() -> bytes:
        url = hf_hub_url(model.source, name, revision=model.revision, endpoint=hub.endpoint)
        answer = get_session().get(url, headers=headers, timeout=hub.timeout_s, follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.content

    return asked(model.source, model.revision, ask)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def look_up_adapter(spec: AdapterSpec, where: Hub) -> tuple[Adapter, int | None]:
    """What is known of it, and the bytes that its download would add (None: not known). Nothing is stored. ConfigError
    for one that cannot be served as it is.
    """
    model = HubModel(source=spec.source)
    require_id(spec.source)
    stock = cache.stock(where.cache_dir, model)
    if where.offline:
        return adapter_from_folder(spec, require_whole(model, where)), 0
    if stock.whole and stock.folder is not None:
        return adapter_from_folder(spec, stock.folder), 0
    try:
        there = listing(model, where)
        document = fetch(model, ADAPTER_CONFIG, where) if ADAPTER_CONFIG in there.sizes else b""
        return read(spec, there.sizes, document), missing_bytes(model, there, stock.repository)
    except OutOfReachError:
        return Adapter(name=spec.name, source=spec.source), None
