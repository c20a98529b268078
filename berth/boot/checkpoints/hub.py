"""Looks up a hub model or adapter before its download: in the cache on this machine, then on the hub itself.

Without a network the result is what is known, with warnings. Errors that only the operator can fix (no such model, no
access) are a ConfigError. Importing this module takes 0.4 s, so only code for hub models imports it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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
from berth.boot.checkpoints.cache import CachedSnapshot
from berth.boot.checkpoints.files import HubModel, format_names, needed_files
from berth.boot.checkpoints.local import from_folder, read_documents, reject, require_loadable
from berth.boot.checkpoints.lora import from_folder as adapter_from_folder
from berth.boot.checkpoints.lora import read as read_adapter
from berth.boot.checkpoints.metadata import CONFIG, ModelInfo, model_info, task_from_name
from berth.boot.checkpoints.model_card import base_models
from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.settings import Settings
from berth.errors import ConfigError
from berth.lora_files import CONFIG as ADAPTER_CONFIG
from berth.plan import Adapter

EXAMPLE = "BERTH_MODELS=Qwen/Qwen3-8B"
ACCESS = "HF_TOKEN of an account that may read it (accept the model's terms on the hub first)"
ACCESS_EXAMPLE = "HF_TOKEN=hf_..."
OFFLINE_ALLOWED = (
    "a model that is complete there (run `berth fetch` on a machine with a network, then `berth export`, and "
    "`berth import` here), or a local directory"
)
OFFLINE_EXAMPLE = "docker run --rm -i -v berth:/data berth import < berth.tar"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Connection to the hub. `endpoint` None: huggingface.co, or the mirror in HF_ENDPOINT."""

    cache_dir: str
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
    blob: str  # name of its content in the cache
    sha256: str | None = None  # of a large file; small ones have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a model's revision, as listed by the hub."""

    commit: str
    files: tuple[HubFile, ...]
    base_models: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int | None]:
        return {file.name: file.size for file in self.files}

    def needed(self, model: HubModel) -> tuple[HubFile, ...]:
        names = set(needed_files(self.sizes, mistral=model.mistral))
        return tuple(file for file in self.files if file.name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Facts about a hub model, and the size of its download (None: unknown)."""

    info: ModelInfo
    missing_bytes: int | None


class OutOfReachError(Exception):
    """The hub does not respond, or with an invalid response."""


def look_up(model: HubModel, hub: Hub) -> Found:
    """Facts about a hub model and the size of its download. Nothing is stored, and for a model that is complete in the
    cache no request is sent. ConfigError for a model that cannot be served.
    """
    require_id(model.source)
    snapshot = cache.cached_snapshot(hub.cache_dir, model)
    if hub.offline:
        folder = require_complete(model, hub)
        try:
            return Found(info=replace(from_folder(model.source, folder), commit=folder.name), missing_bytes=0)
        except OSError as error:
            reject(model.source, f"cannot be read in {folder}: {error.strerror}", OFFLINE_ALLOWED, OFFLINE_EXAMPLE)
    known = cached_info(model.source, snapshot)
    if known is not None and known.local:
        return Found(info=known, missing_bytes=0)
    try:
        files = listing(model, hub)
        require_loadable(model.source, files.sizes, "a model in the transformers format, with safetensors", EXAMPLE)
        documents = read_documents(model.source, files.sizes, lambda name: fetch(model, name, hub))
        info = model_info(model.source, documents, files.sizes)
        info = replace(info, base_models=files.base_models, commit=files.commit)
        return Found(info=info, missing_bytes=missing_bytes(model, files, snapshot.repository))
    except OutOfReachError as error:
        info = known or ModelInfo(source=model.source, task=task_from_name(model.source))
        note = f"the hub cannot be reached ({error})"
        if info.model_type is None:
            note += ": its size, task, context and access were not checked"
        else:
            note += ", and its weights are not all in the cache"
        return Found(info=replace(info, warnings=(*info.warnings, note)), missing_bytes=None)


def cached_info(source: str, snapshot: CachedSnapshot) -> ModelInfo | None:
    """Facts from the cache; not `local` if files are missing. None: nothing is known."""
    if snapshot.folder is None:
        return None
    try:
        return replace(from_folder(source, snapshot.folder), local=snapshot.complete, commit=snapshot.folder.name)
    except (ConfigError, OSError):  # an incomplete download: the hub has the rest
        pass
    try:
        return model_info(source, {CONFIG: json.loads((snapshot.folder / CONFIG).read_bytes())}, {})
    except (ValueError, OSError, RecursionError):
        return None


def download_bytes(model: HubModel, hub: Hub) -> int | None:
    """The download size of another repository that a model's engine needs. ConfigError as for a model."""
    require_id(model.source)
    snapshot = cache.cached_snapshot(hub.cache_dir, model)
    if snapshot.complete:
        return 0
    if hub.offline:
        require_complete(model, hub)
    try:
        return missing_bytes(model, listing(model, hub), snapshot.repository)
    except OutOfReachError:
        return None


def require_complete(model: HubModel, hub: Hub) -> Path:
    """The snapshot's folder, for use without a network. ConfigError with all that the cache lacks of the model."""
    snapshot = cache.cached_snapshot(hub.cache_dir, model)
    if snapshot.folder is None:
        revision = f" at revision {model.revision!r}" if model.revision else ""
        reason = f"is not in {hub.cache_dir}{revision}, and BERTH_OFFLINE forbids to download it"
        reject(model.source, reason, OFFLINE_ALLOWED, OFFLINE_EXAMPLE)
    if not snapshot.complete:
        missing = format_names(snapshot.missing)
        reason = f"lacks {missing} in {snapshot.folder}, and BERTH_OFFLINE forbids to download it"
        reject(model.source, reason, OFFLINE_ALLOWED, OFFLINE_EXAMPLE)
    return snapshot.folder


def missing_bytes(model: HubModel, files: Listing, repository: Path) -> int:
    needed = [(file.name, file.blob, file.size or 0) for file in files.needed(model)]
    return sum(size for _, _, size in needed) - cache.present_bytes(repository, files.commit, needed)


def listing(model: HubModel, hub: Hub) -> Listing:
    """ConfigError if the hub rejects the request, OutOfReachError if it does not respond."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token or None)

    def request() -> Listing:
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
            raise ValueError("its response names no commit")
        return Listing(
            commit=found.sha,
            files=tuple(files),
            base_models=base_models(getattr(found.card_data, "base_model", None)),
        )

    return translated(model.source, model.revision, request)


def translated(source: str, revision: str | None, request: Callable[[], Result]) -> Result:
    """The result of a request to the hub. Errors that the operator can fix are raised as ConfigError, all others as
    OutOfReachError.
    """
    try:
        return request()
    except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        wrapped = isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception)
        cause = error.__cause__ if wrapped else error
        if isinstance(cause, OfflineModeIsEnabled):
            reason = "is not complete in the cache, and HF_HUB_OFFLINE forbids to query the hub"
            reject(source, reason, "no HF_HUB_OFFLINE; BERTH_OFFLINE=1 is for cached models", "HF_HUB_OFFLINE=")
        if isinstance(cause, GatedRepoError):
            reject(source, "is a gated model and needs a token with access", ACCESS, ACCESS_EXAMPLE)
        if isinstance(cause, RevisionNotFoundError):
            reject(source, f"has no revision {revision!r}", "a branch, tag or commit of the model", "revision: main")
        if isinstance(cause, RepositoryNotFoundError):
            reject(source, "is not on the hub, or it is private", f"an id as the hub spells it, or {ACCESS}", EXAMPLE)
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status in (401, 403):
                reject(source, f"was rejected by the hub (HTTP {status})", ACCESS, ACCESS_EXAMPLE)
            raise OutOfReachError(f"HTTP {status}") from cause
        raise OutOfReachError((str(cause).strip() or type(cause).__name__).splitlines()[0]) from cause


def require_id(source: str) -> None:
    """ConfigError for an invalid hub id."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        reject(source, "is not a valid id of a model on the hub", "OWNER/NAME, or an absolute path", EXAMPLE)


def fetch(model: HubModel, name: str, hub: Hub) -> bytes:
    """One of its small files. ConfigError if the hub rejects the request, OutOfReachError if it does not respond."""
    token = hub.token or get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}

    def request() -> bytes:
        url = hf_hub_url(model.source, name, revision=model.revision, endpoint=hub.endpoint)
        response = get_session().get(url, headers=headers, timeout=hub.timeout_s, follow_redirects=True)
        hf_raise_for_status(response)
        return response.content

    return translated(model.source, model.revision, request)


def look_up_adapter(spec: AdapterSpec, hub: Hub) -> tuple[Adapter, int | None]:
    """An adapter and the size of its download (None: unknown). Nothing is stored. ConfigError for one that cannot be
    served.
    """
    model = HubModel(source=spec.source)
    require_id(spec.source)
    snapshot = cache.cached_snapshot(hub.cache_dir, model)
    if hub.offline:
        return adapter_from_folder(spec, require_complete(model, hub)), 0
    if snapshot.complete and snapshot.folder is not None:
        return adapter_from_folder(spec, snapshot.folder), 0
    try:
        files = listing(model, hub)
        document = fetch(model, ADAPTER_CONFIG, hub) if ADAPTER_CONFIG in files.sizes else b""
        return read_adapter(spec, files.sizes, document), missing_bytes(model, files, snapshot.repository)
    except OutOfReachError:
        return Adapter(name=spec.name, source=spec.source), None
