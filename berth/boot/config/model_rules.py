"""The rules of single values in BERTH_MODELS, in both of its forms: parser, allowed values and example."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar
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
OWN_FLAGS = ("--host", "--port", "--served-model-name", "--uds")
OWN_VARIABLES = frozenset({"VLLM_API_KEY", "SIM_API_KEY"})
LARGEST_SHARE = 1000
SPECULATION_WORDS = ("auto", "off", "mtp", "ngram")
LEAST_KV_OFFLOAD = 2**30  # SGLang takes whole gigabytes
SECRET_FLAG = re.compile(r"--.*(api-key|access-key|hf-token|secret|password)\Z")
ENGINE_FLAGS = frozenset({"--ssl-keyfile"})  # complete options that begin a reserved one

_HUB_PART = r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(f"{_HUB_PART}(/{_HUB_PART})?")
_NOT_IN_NAME = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff@,]")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[T]):
    """A parser with the text of its error message. `parse` raises ValueError with the reason."""

    parse: Callable[[str], T]
    allowed: str
    example: str


class Problems:
    """Collects problems, so that all of them are reported at once."""

    def __init__(self, variable: str = VARIABLE) -> None:
        self.variable = variable
        self.found: list[Problem] = []

    def add(self, place: str, value: str, reason: str, *, allowed: str, example: str) -> None:
        """`place` is the field, as in "chat.context", or "" for the entire text."""
        variable = f"{self.variable}: {place}" if place else self.variable
        self.found.append(Problem(variable=variable, value=value, reason=reason, allowed=allowed, example=example))

    def reject(self, place: str, value: str, reason: str, rule: Rule[Any]) -> None:
        self.add(place, value, reason, allowed=rule.allowed, example=rule.example)

    def parse(self, place: str, text: str, rule: Rule[T]) -> T | None:
        try:
            return rule.parse(text)
        except ValueError as exc:
            self.reject(place, parsers.masked_word(text), str(exc), rule)
            return None


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def is_local(source: str) -> bool:
    return source in (".", "..") or source.startswith(LOCAL_PREFIXES)


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def default_name(source: str) -> str:
    """The name of a model that has none: its hub id, or the last part of its path."""
    return PurePosixPath(source).name if is_local(source) else source


def public_name(text: str) -> str:
    if not text or len(text) > LONGEST_NAME:
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters")
    if _NOT_IN_NAME.search(text):
        raise ValueError("white space, '@', ',' or control characters in a name")
    if text.startswith("/") or text.endswith("/") or "//" in text:
        raise ValueError("a slash in a name must have a word on both sides")
    return text


def base_url(text: str) -> str:
    """The base URL of an attached server as it is written, without slashes at its end."""
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
    return f"{url.scheme}://{rest}".rstrip("/")


def hub_source(text: str) -> str:
    if is_hub_id(text):
        return text
    if is_hub_id(text.partition(":")[0]):
        raise ValueError("not a hub id; a revision has its own field in the YAML form: `revision: ...`")
    raise ValueError("not a hub id, a local path or a URL")


def hub_repository(text: str) -> str:
    """Extra sources must be hub repositories: engines read local paths themselves."""
    if is_hub_id(text):
        return text
    raise ValueError("not a hub id" + ("; local files need not be named here" if is_local(text) else ""))


def field_name(text: str) -> str:
    """Of a request, as JSON has it."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        return text
    raise ValueError("not the name of a request field")


def any_source(text: str) -> str:
    """The simulated engine needs no model: any word is accepted."""
    if text.startswith("-") or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("contains white space or starts with a dash")
    return text


def weights_label(text: str) -> str:
    """Of attached engines: a source, and after it the revision and the args that Berth's own replicas count too."""
    first, *more = text.split() or [""]
    return " ".join((any_source(first), *more))


def model_source(text: str, *, simulated: bool) -> str:
    if is_local(text):
        return parsers.absolute_path(text)
    return any_source(text) if simulated else hub_source(text)


def engine_entry(text: str) -> EngineSpec:
    """An engine by its name: "vllm", "sim", "sim:sglang"."""
    word, colon, dialect = text.partition(":")
    if word not in STARTED_ENGINES:
        raise ValueError(f"unknown engine {word!r}{parsers.did_you_mean(word.lower(), STARTED_ENGINES)}")
    if not colon:
        return EngineSpec(engine=EngineName(word))
    if word != EngineName.SIM:
        raise ValueError("only sim takes a dialect after a colon")
    if dialect not in SIM_DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r} of sim{parsers.did_you_mean(dialect.lower(), SIM_DIALECTS)}")
    return EngineSpec(engine=EngineName.SIM, dialect=DialectName(dialect))


def argument(text: str) -> str:
    """A word of an engine's command line. Reserved options are rejected, and so is every abbreviation of one: the
    engines' parsers (argparse) take `--hos` for `--host`.
    """
    flag = text.partition("=")[0].replace("_", "-")
    if len(flag) > len("--") and flag not in ENGINE_FLAGS:
        reserved = next((one for one in (*OWN_FLAGS, *parsers.SECRET_FLAGS) if one.startswith(flag)), flag)
        if reserved != flag:
            raise ValueError(f"an abbreviation of {reserved}, which may not be set here")
    if flag in OWN_FLAGS:
        raise ValueError("Berth sets this itself")
    if SECRET_FLAG.fullmatch(flag):
        raise ValueError("a secret that `ps` would show: put it into `env`, or into a file that the engine reads")
    return text


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("not a number") from None
    if not 0 < value <= LARGEST_SHARE:
        raise ValueError("out of range")
    return value


def environment_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("not an environment variable name")
    if text.startswith("BERTH_"):
        raise ValueError("BERTH_* variables are not passed to engines")
    if text in OWN_VARIABLES:
        raise ValueError("Berth sets this itself")
    return text


def revision(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}", text) or ".." in text:
        raise ValueError("not a branch, tag or commit")
    return text


def gpu(text: str) -> int | str:
    """An NVML index or a UUID."""
    if re.fullmatch(r"[0-9]{1,4}", text):
        return int(text)
    if re.fullmatch(r"GPU-[0-9A-Za-z-]{1,80}", text):
        return text
    if text.startswith("MIG-"):
        raise ValueError("a MIG instance; Berth uses entire GPUs only")
    raise ValueError("not a GPU index or UUID")


def kv_cache(text: str) -> int:
    size_bytes = parsers.size(text)
    if size_bytes < 2**20:
        raise ValueError("less than 1 MiB; is the unit missing?")
    return size_bytes


def speculation(text: str) -> str:
    """A word, or the hub id or absolute path of a draft model."""
    if text in SPECULATION_WORDS:
        return text
    if is_local(text):
        return parsers.absolute_path(text)
    if "/" not in text:
        raise ValueError(f"unknown value{parsers.did_you_mean(text.lower(), SPECULATION_WORDS)}")
    return hub_repository(text)


def kv_offload(text: str) -> int | None:
    """Bytes of RAM. Other places need libraries that no engine of the image has."""
    if text == "off":
        return None
    place = text.partition(":")[0].lower()
    if place in ("lmcache", "mooncake", "nixl"):
        raise ValueError(f"the engines of this image have no {place}")
    if "+" in text or place == "disk":
        raise ValueError("only RAM is supported")
    size_bytes = parsers.size(text)
    if size_bytes < LEAST_KV_OFFLOAD:
        raise ValueError("less than 1 GiB; is the unit missing?")
    return size_bytes


def adapter_source(text: str) -> str:
    return parsers.absolute_path(text) if is_local(text) else hub_repository(text)


NAME = Rule(
    parse=public_name,
    allowed=f"1 to {LONGEST_NAME} characters without white space, '@' and ','; slashes only between words",
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
