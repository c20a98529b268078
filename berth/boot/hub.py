"""Looks at a hub model before it is downloaded: in the hub's cache on this machine, then on the hub itself.

Without a network the answer is a ModelInfo with warnings. What only the operator can put right (no such model, no
access) is a ConfigError. Importing this module takes half a second: only hub models pay for it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, get_session, get_token, hf_hub_url, hf_raise_for_status, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is what its HTTP library raises
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from berth.boot.checkpoint import CONFIG, ModelInfo, model_info, task_from_name
from berth.boot.directory import documents, from_folder, refuse, refuse_unless_loadable
from berth.errors import ConfigError

EXAMPLE = "BERTH_MODELS=Qwen/Qwen3-8B"
ACCESS = "HF_TOKEN of an account that may read it (accept the model's terms on the hub first)"
ACCESS_EXAMPLE = "HF_TOKEN=hf_..."

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """How the hub is reached. `endpoint` None: huggingface.co, or the mirror that HF_ENDPOINT names."""

    cache_dir: str  # where the engines' downloads lie
    offline: bool = False
    token: str = ""
    timeout_s: float = 5.0
    endpoint: str | None = None


class OutOfReachError(Exception):
    """The hub does not answer, or not with what it should."""


def describe(source: str, revision: str | None, hub: Hub) -> ModelInfo:
    """What is known of a hub model. Nothing is stored. ConfigError for one that cannot be served as it is."""
    known = _cached(source, revision, hub)
    if known is not None and known.local:
        return known
    if hub.offline:
        reason = f"is not whole in {hub.cache_dir}, and BERTH_OFFLINE forbids to download it"
        refuse(source, reason, "a model that was downloaded before, or a local directory", "BERTH_OFFLINE=0")
    try:
        return _online(source, revision, hub)
    except OutOfReachError as error:
        return _unchecked(known or ModelInfo(source=source, task=task_from_name(source)), error)


def _unchecked(known: ModelInfo, error: OutOfReachError) -> ModelInfo:
    if known.model_type is None:
        note = f"the hub cannot be reached ({error}): its size, task, context and access were not checked"
    else:
        note = f"the hub cannot be reached ({error}), and its weights are not all in the cache"
    return replace(known, warnings=(*known.warnings, note))


def _cached(source: str, revision: str | None, hub: Hub) -> ModelInfo | None:
    """What the cache holds; not `local` where the weights are not all there. None: nothing."""
    try:
        config = try_to_load_from_cache(source, CONFIG, cache_dir=hub.cache_dir, revision=revision)
    except HFValidationError:
        refuse(source, "is no id of a model on the hub", "OWNER/NAME, or an absolute path", EXAMPLE)
    except (OSError, ValueError):
        return None
    if not isinstance(config, str):
        return None
    try:
        return from_folder(source, Path(config).parent)
    except (ConfigError, OSError):  # half a download: the hub has the rest
        return _partly(source, Path(config))


def _partly(source: str, config: Path) -> ModelInfo | None:
    try:
        found = {CONFIG: json.loads(config.read_bytes())}
    except (ValueError, OSError):
        return None
    return model_info(source, found, {})


def _online(source: str, revision: str | None, hub: Hub) -> ModelInfo:
    """Asks for the list of files and reads the small ones."""
    sizes = _listing(source, revision, hub)
    refuse_unless_loadable(source, sizes, "a model in the transformers format, with safetensors", EXAMPLE)
    found = documents(source, sizes, lambda name: _fetch(source, revision, name, hub))
    return model_info(source, found, sizes)


def _listing(source: str, revision: str | None, hub: Hub) -> dict[str, int | None]:
    api = HfApi(endpoint=hub.endpoint, token=hub.token or None)

    def ask() -> dict[str, int | None]:
        found = api.model_info(source, revision=revision, timeout=hub.timeout_s, files_metadata=True)
        return {sibling.rfilename: sibling.size for sibling in found.siblings or ()}

    return _asked(source, revision, ask)


def _fetch(source: str, revision: str | None, name: str, hub: Hub) -> bytes:
    token = hub.token or get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask() -> bytes:
        url = hf_hub_url(source, name, revision=revision, endpoint=hub.endpoint)
        answer = get_session().get(url, headers=headers, timeout=hub.timeout_s, follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.content

    return _asked(source, revision, ask)


def _asked(source: str, revision: str | None, ask: Callable[[], Answer]) -> Answer:
    """The hub's answer. Its refusals are the operator's to mend; everything else means that it is out of reach."""
    try:
        return ask()
    except GatedRepoError:
        refuse(
            source, "is a gated model, and without a token that has access it cannot be read", ACCESS, ACCESS_EXAMPLE
        )
    except RevisionNotFoundError:
        refuse(source, f"has no revision {revision!r}", "a branch, tag or commit of the model", "revision: main")
    except RepositoryNotFoundError:
        refuse(source, "is not on the hub, or it is private", f"an id as the hub spells it, or {ACCESS}", EXAMPLE)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            refuse(source, f"was refused by the hub (HTTP {status})", ACCESS, ACCESS_EXAMPLE)
        raise OutOfReachError(f"HTTP {status}") from error
    except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise OutOfReachError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
