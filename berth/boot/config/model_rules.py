"""What may stand in BERTH_MODELS, whichever of its two forms it has: the rules of the single values."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from berth.boot.config import parsers
from berth.boot.config.model_spec import EngineSpec
from berth.errors import Problem
from berth.plan import DialectName, EngineName

VARIABLE = "BERTH_MODELS"
LONGEST_NAME = 200
STARTED_ENGINES = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM, EngineName.SIM)
SIM_DIALECTS = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM)
LOCAL_PREFIXES = ("/", "./", "../", "~")

_HUB_PART = r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(f"{_HUB_PART}(/{_HUB_PART})?")
_NOT_IN_NAME = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff@,]")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[T]):
    """How a text becomes a value, and what to say when it cannot. `parse` raises ValueError with the reason."""

    parse: Callable[[str], T]
    allowed: str
    example: str


class Problems:
    """Collects what is wrong, so that everything can be said at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, place: str, value: str, reason: str, *, allowed: str, example: str) -> None:
        """`place` is the field as "chat.context", or "" for the text as a whole."""
        variable = f"{VARIABLE}: {place}" if place else VARIABLE
        self.found.append(Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example))

    def parse(self, place: str, text: str, rule: Rule[T]) -> T | None:
        try:
            return rule.parse(text)
        except ValueError as exc:
            self.add(place, parsers.masked_word(text), str(exc), allowed=rule.allowed, example=rule.example)
            return None


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def is_local(source: str) -> bool:
    return source in (".", "..") or source.startswith(LOCAL_PREFIXES)


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def default_name(source: str) -> str:
    """What a model is called when nobody says: the hub id as it is, a path's last part."""
    return PurePosixPath(source).name if is_local(source) else source


def public_name(text: str) -> str:
    if not text or len(text) > LONGEST_NAME:
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters")
    if _NOT_IN_NAME.search(text):
        raise ValueError("white space, '@', ',' or control characters in a name")
    if text.startswith("/") or text.endswith("/") or "//" in text:
        raise ValueError("a slash without a word on both sides in a name")
    return text


def base_url(text: str) -> str:
    """The base URL of an attached server, less a trailing "/v1" and slash."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or re.search(r"[^\x21-\x7e]", text):
        raise ValueError("not an http or https URL with a host")
    if url.username is not None or url.password is not None:
        raise ValueError("user name or password in a URL; give a key as `api_key` or `api_key_file`")
    if url.query or url.fragment or text.endswith(("?", "#")):
        raise ValueError("a base URL has no query and no fragment")
    rest = text.partition("://")[2]
    return f"{url.scheme}://{rest}".rstrip("/").removesuffix("/v1").rstrip("/")


def local_source(text: str) -> str:
    return parsers.absolute_path(text)


def hub_source(text: str) -> str:
    if is_hub_id(text):
        return text
    if is_hub_id(text.partition(":")[0]):
        raise ValueError("not a hub id; a revision has its own field in the YAML form: `revision: ...`")
    raise ValueError("neither a hub id, nor a local path, nor a URL")


def hub_repository(text: str) -> str:
    """A further source can only be a repository of the hub: engines read local paths without our help."""
    if is_hub_id(text):
        return text
    raise ValueError("not a hub id" + ("; local files need not be named here" if is_local(text) else ""))


def any_source(text: str) -> str:
    """The simulated engine needs no model: any word will do."""
    if text.startswith("-") or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("white space, or a dash at the beginning")
    return text


def model_source(text: str, *, simulated: bool) -> str:
    if is_local(text):
        return local_source(text)
    return any_source(text) if simulated else hub_source(text)


def engine_entry(text: str) -> EngineSpec:
    """An engine by its name: "vllm", "sim", "sim:sglang"."""
    word, colon, dialect = text.partition(":")
    if word not in STARTED_ENGINES:
        raise ValueError(f"no such engine{parsers.did_you_mean(word.lower(), STARTED_ENGINES)}")
    if not colon:
        return EngineSpec(engine=EngineName(word))
    if word != EngineName.SIM:
        raise ValueError("only sim takes a dialect after a colon")
    if dialect not in SIM_DIALECTS:
        raise ValueError(f"no dialect that sim speaks{parsers.did_you_mean(dialect.lower(), SIM_DIALECTS)}")
    return EngineSpec(engine=EngineName.SIM, dialect=DialectName(dialect))


NAME = Rule(
    parse=public_name,
    allowed=f"1 to {LONGEST_NAME} characters without white space, '@' and ','; slashes stand between words",
    example="chat=Qwen/Qwen3-8B",
)
URL = Rule(
    parse=base_url,
    allowed="http(s)://host[:port][/path][/v1] of a server that speaks OpenAI's API",
    example="http://127.0.0.1:9100/v1",
)
SOURCE = Rule(
    parse=hub_source,
    allowed="a hub id, a local path that starts with / ./ ../ or ~, or an http(s) URL",
    example="Qwen/Qwen3-8B",
)
ENGINE = Rule(
    parse=engine_entry,
    allowed="vllm, sglang, trtllm, sim, sim:vllm, sim:sglang, sim:trtllm",
    example="Qwen/Qwen3-8B@vllm,sglang",
)
