"""What a request would have an engine fetch or open: pictures, sounds and files that it names instead of holding them.

Engines open whatever they are given: a URL, a `file:` URL, the path of a file. And each engine and version reads other
fields. So all of a request is looked at, whatever its API, and every text in it is one of three kinds:

    text        prompts, messages, tools, schemas, settings of templates: never looked into
    reference   in a part of a message that is no text, or in a field whose name says so (`image_url`, `ref_audio`):
                it must be the content itself, or the URL of a host that may be fetched from
    other       it is judged like a reference if it looks like one
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NoReturn

from berth.canonical import InferenceRequest
from berth.errors import InvalidRequestError

MOST_HOSTS: Final = 16  # whose addresses are looked up for one request
_LONGEST_PATH: Final = 4096  # Linux opens nothing with a longer name
_LONGEST_PARAM: Final = 200
_INSTEAD: Final = "Send the content itself, as 'data:image/png;base64,...'."


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In a message or at the top: texts to read, what is said about texts, and names. Nothing in it is looked at.
_OPAQUE: Final = _words(
    """
    annotations bad_words cache_salt chat_template chat_template_kwargs citations documents ebnf encrypted_content
    extra_key function_call functions grammar guided_choice guided_grammar guided_json guided_regex id instruction
    instructions json_schema logit_bias metadata model name negative_prompt prediction prompt_cache_key query reasoning
    reasoning_content ref_text refusal regex request_id response_format rid role safety_identifier session_id signature
    stop stop_regex structural_tag structured_outputs suffix text text_1 text_2 thinking tool_call_id tool_calls
    tool_choice tools type user web_search_options
    """
)
_MESSAGE: Final = frozenset({"role", "content"})
# A text, or texts; what stands among them as an object is a part.
_TEXTS: Final = _words("content input prompt")
_OPAQUE_IN_PARTS: Final = _words("annotations cache_control citations reasoning refusal signature text thinking title")
# In a reference: what is said about it.
_LABEL: Final = re.compile(
    r"(?:.*_)?(?:backend|detail|filename|format|ids?|language|mode|name|quality|role|size|style|type|uuid|voice)"
)
_REFERENCE: Final = re.compile(
    r"audio|file(?<!profile)|image|img|mask|media|photo|picture|url|video|wav|(?<![a-z])(?:ref_|uri)"
)
_SETTINGS: Final = re.compile(r".*_(?:config|kwargs|options|params)")

_BLANK: Final = re.compile(r"[\x00-\x20\x7f-\xa0\xad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]+")
_LIKE_REFERENCE: Final = re.compile(r"[a-z][a-z0-9+.-]*:[/\\]|https?:|[/\\~]|\.{1,2}[/\\]", re.IGNORECASE)
_URL: Final = re.compile(
    r"(?i:https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?(?:[/?#][^\x00-\x20\x7f-\xa0]*)?"
)
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
# In base64: PNG, JPEG, GIF, RIFF (WAV, WebP), MP3, Ogg, FLAC, WebM, MP4, BMP, TIFF, PDF, tensors of PyTorch and NumPy.
_BEGINNINGS: Final = (
    *("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUQz", "T2dnU", "ZkxhQ", "GkXfo", "AAAA", "Qk", "SUkqA", "TU0AK"),
    *("JVBERi", "UEsDB", "k05VTVBZ"),
)

_NAT64: Final = IPv6Network("64:ff9b::/96")
_TUNNELS: Final = (IPv6Network("64:ff9b:1::/48"), IPv6Network("2001::/32"))
_METADATA: Final = frozenset({IPv4Address("168.63.129.16")})  # Azure's, of all that have no private address


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """What engines may fetch for clients."""

    offline: bool = False
    hosts: frozenset[str] | None = None  # None: every host with a public address


class _Kind(Enum):
    REFERENCE = auto()
    OTHER = auto()
    SETTINGS = auto()  # like OTHER, whatever the names below it say


def hosts_named(request: InferenceRequest, fetching: Fetching) -> frozenset[str]:
    """The names of hosts whose addresses must be looked up, and be public. InvalidRequestError for a reference that
    no engine may be given.
    """
    body = request.body
    if request.media is not None:
        body = request.media.document or request.media.fields
    walk = _Walk(fetching)
    walk.fields(body, "", _Kind.OTHER)
    if len(walk.names) > MOST_HOSTS:
        raise InvalidRequestError(
            f"The request refers to {len(walk.names)} hosts; {MOST_HOSTS} are allowed. {_INSTEAD}"
        )
    return frozenset(walk.names)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of the Internet, also where it has an IPv4 address in it."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _TUNNELS):
            return False
        inner = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        inner = inner or address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and address not in _METADATA


def host_of(url: str) -> str | None:
    """In lower case and without the dot of a root; None for what is no plain http or https URL. What follows the host
    cannot be taken for a part of it by any reader, and there is no user in front of it.
    """
    found = _URL.fullmatch(url)
    return found[1].lower().removesuffix(".") if found else None


class _Walk:
    """Over a request, each value once."""

    def __init__(self, fetching: Fetching) -> None:
        self._fetching = fetching
        self.names: set[str] = set()

    def fields(self, body: Mapping[str, Any], param: str, kind: _Kind) -> None:
        opaque = _OPAQUE_IN_PARTS if kind is _Kind.REFERENCE else _OPAQUE
        for name, value in body.items():
            if name not in opaque:
                self._value(name, value, f"{param}.{name}" if param else name, kind)

    def _value(self, name: str, value: Any, param: str, kind: _Kind) -> None:
        """`name`: of the field, also for what stands in a list."""
        is_text = name in _TEXTS and kind is _Kind.OTHER
        if isinstance(value, str):
            if not is_text:
                self._string(name, value, param, kind)
        elif isinstance(value, dict):
            self.fields(value, param, _Kind.REFERENCE if is_text else _below(kind, name))
        elif isinstance(value, list) and set(map(type, value)) & ({list, dict} if is_text else {str, list, dict}):
            for place, item in enumerate(value):
                if name == "messages" and _is_text_message(item):
                    continue
                self._value(name, item, f"{param}.{place}", kind)

    def _string(self, name: str, value: str, param: str, kind: _Kind) -> None:
        strict = _below(kind, name) is _Kind.REFERENCE and not _LABEL.fullmatch(name.lower())
        if (strict and value) or _looks_like_reference(value):
            self._reference(value, param[:_LONGEST_PARAM])

    def _reference(self, value: str, param: str) -> None:
        if value.startswith("data:") or _is_base64(value):
            return
        if self._fetching.offline:
            raise InvalidRequestError(
                "This server is offline (BERTH_OFFLINE=1) and fetches nothing: send the content itself, as "
                "'data:image/png;base64,...'.",
                param=param,
            )
        host = host_of(value)
        if host is None:
            _refuse(
                f"{param!r} must be the content itself or a plain http or https URL, not {_shown(value)}: "
                "files of this server, other schemes, users in URLs, blanks and control characters are refused.",
                param,
            )
        if self._fetching.hosts is None:
            self._public(host, param)
        elif host not in self._fetching.hosts:
            _refuse(f"{param!r}: nothing is fetched from {_shown(host)}: BERTH_FETCH_HOSTS does not name it.", param)

    def _public(self, host: str, param: str) -> None:
        if not (host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2])):
            self.names.add(host)
            return
        try:
            address = ip_address(host.strip("[]"))
        except ValueError:
            _refuse(f"{param!r}: {_shown(host)} is no address: write it as four decimal numbers.", param)
        if not is_public(address):
            refuse_private(host, param)


def refuse_private(host: str, param: str | None = None) -> NoReturn:
    _refuse(
        f"{_shown(host)} has a private address: nothing is fetched from such, unless BERTH_FETCH_HOSTS names the host.",
        param,
    )


def _refuse(message: str, param: str | None) -> NoReturn:
    raise InvalidRequestError(f"{message} {_INSTEAD}", param=param)


def _is_text_message(item: Any) -> bool:
    """Nearly all are, and need no walk."""
    return type(item) is dict and item.keys() == _MESSAGE and type(item["content"]) is str


def _below(kind: _Kind, name: str) -> _Kind:
    """The kind of what a field of this name holds."""
    if kind is _Kind.OTHER:
        plain = name.lower()
        if _SETTINGS.fullmatch(plain):
            return _Kind.SETTINGS
        if _REFERENCE.search(plain):
            return _Kind.REFERENCE
    return kind


def _looks_like_reference(value: str) -> bool:
    """Readers of URLs pass over blanks and control characters at their beginning, and some in the middle too."""
    if not (value.isascii() and value.isprintable() and value[:1] != " "):
        value = _BLANK.sub("", value)
    return _LIKE_REFERENCE.match(value) is not None


def _is_base64(value: str) -> bool:
    """Whether it is content in base64, and no file's name: it begins as pictures and sounds do, or is too long."""
    if "\n" in value:
        value = value.replace("\r", "").replace("\n", "")
    if not value.startswith(_BEGINNINGS) and len(value) < _LONGEST_PATH:
        return False
    return _BASE64.fullmatch(value) is not None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:80]}...")
