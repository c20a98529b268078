"""References in requests: images, audio and files that an engine would fetch or open.

Engines open whatever they are given: a URL, a `file:` URL, the path of a file; and the fields they read vary by engine
and version. So every field of a request is checked, whatever its API. A string in it is one of three kinds:

    text        prompts, messages, tools, schemas, template settings: not checked
    reference   in a non-text part of a message, or in a field with such a name (`image_url`, `ref_audio`): it must be
                the content itself, or a URL of an allowed host
    other       checked like a reference if it looks like one
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NoReturn

from berth.canonical import InferenceRequest
from berth.errors import InvalidRequestError

MOST_HOSTS: Final = 16  # of one request, since each address is looked up
_LONGEST_PATH: Final = 4096  # Linux opens no file with a longer path
_LONGEST_PARAM: Final = 200
_INSTEAD: Final = "Send the content itself, as 'data:image/png;base64,...'."


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In a message or at the top level: texts, settings for texts, and names. Not checked.
_OPAQUE: Final = _words(
    """
    annotations bad_words cache_salt chat_template chat_template_kwargs citations documents ebnf encrypted_content
    extra_key format function_call functions grammar guided_choice guided_grammar guided_json guided_regex id
    instruction instructions json_schema logit_bias metadata model name negative_prompt prediction prompt_cache_key
    query reasoning reasoning_content ref_text refusal regex request_id responseJsonSchema responseSchema
    response_format response_json_schema response_schema rid role safety_identifier session_id signature stop
    stop_regex structural_tag structured_outputs suffix text text_1 text_2 thinking tool_call_id tool_calls
    tool_choice tools type user web_search_options
    """
)
_MESSAGE: Final = frozenset({"role", "content"})
# A text, or a list of texts; an object in the list is a part of a message.
_TEXTS: Final = _words("content input prompt")
_NONE: Final[frozenset[str]] = frozenset()
_NUMBERS: Final = frozenset({int, float, bool, type(None)})  # and the like, which refer to nothing
_OPAQUE_IN_PARTS: Final = _words("annotations cache_control citations reasoning refusal signature text thinking title")
# In a reference: its properties.
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
# Prefixes in base64: PNG, JPEG, GIF, RIFF (WAV, WebP), MP3, Ogg, FLAC, WebM, MP4, BMP, TIFF, PDF, PyTorch, NumPy.
_BASE64_PREFIXES: Final = (
    *("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUQz", "T2dnU", "ZkxhQ", "GkXfo", "AAAA", "Qk", "SUkqA", "TU0AK"),
    *("JVBERi", "UEsDB", "k05VTVBZ"),
)

_NAT64: Final = IPv6Network("64:ff9b::/96")
_TUNNELS: Final = (IPv6Network("64:ff9b:1::/48"), IPv6Network("2001::/32"))
_METADATA: Final = frozenset({IPv4Address("168.63.129.16")})  # Azure's; all others are private addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """What engines may fetch for clients."""

    offline: bool = False
    hosts: Collection[str] | None = None  # None: every host with a public address


class _Kind(Enum):
    REFERENCE = auto()
    OTHER = auto()
    SETTINGS = auto()  # like OTHER, whatever the names of fields below it


def hosts_named(request: InferenceRequest, fetching: Fetching) -> frozenset[str]:
    """The hosts whose addresses must be looked up, and must be public. InvalidRequestError for a reference that may
    not reach an engine.
    """
    body = request.body
    if request.media is not None:
        body = request.media.document or request.media.fields
    else:
        for name, value in body.items():
            if name in _OPAQUE or type(value) in _NUMBERS or (name == "messages" and all(map(_is_plain, value))):
                continue
            break
        else:
            return _NONE  # as in nearly all requests
    visitor = _Visitor(fetching=fetching)
    visitor.visit("", body, "", _Kind.OTHER)
    if len(visitor.names) > MOST_HOSTS:
        raise InvalidRequestError(
            f"The request refers to {len(visitor.names)} hosts; up to {MOST_HOSTS} are allowed. {_INSTEAD}"
        )
    return frozenset(visitor.names)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of the public Internet; an embedded IPv4 address counts as itself."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _TUNNELS):
            return False
        inner = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        inner = inner or address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and address not in _METADATA


def host_of(url: str) -> str | None:
    """The host in lower case, without a final dot; None for anything but a plain http or https URL: one without a user,
    where no URL parser can take what follows the host for a part of it.
    """
    found = _URL.fullmatch(url)
    return found[1].lower().removesuffix(".") if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visitor:
    """Visits each value of a request once. Names and paths stay short: they are read again for each value below."""

    fetching: Fetching
    names: set[str] = field(default_factory=set)  # of hosts

    def visit(self, name: str, value: Any, param: str, kind: _Kind) -> None:
        """`name`: of the field, also for the items of a list; "" for the whole request."""
        is_text = name in _TEXTS and kind is _Kind.OTHER
        if isinstance(value, str):
            if is_text:
                return
            is_reference = _below(kind, name) is _Kind.REFERENCE and not _LABEL.fullmatch(name.lower())
            if (is_reference and value) or _looks_like_reference(value):
                self._check_reference(value, param)
        elif isinstance(value, dict):
            below = _Kind.REFERENCE if is_text else _below(kind, name) if name else kind
            opaque = _OPAQUE_IN_PARTS if below is _Kind.REFERENCE else _OPAQUE
            for inner, field_value in value.items():
                if inner not in opaque and type(field_value) not in _NUMBERS:
                    short = inner[:_LONGEST_PARAM]  # no engine reads a field with a longer name
                    self.visit(short, field_value, f"{param}.{short}"[:_LONGEST_PARAM] if param else short, below)
        elif isinstance(value, list) and set(map(type, value)) & ({list, dict} if is_text else {str, list, dict}):
            for place, item in enumerate(value):
                if name == "messages" and _is_plain(item):
                    continue
                self.visit(name, item, f"{param}.{place}"[:_LONGEST_PARAM], kind)

    def _check_reference(self, value: str, param: str) -> None:
        if value.startswith("data:"):
            return
        # Base64 is content, and not a path, with the prefix of a known format or if it is too long for a path.
        packed = value.replace("\r", "").replace("\n", "") if "\n" in value else value
        is_content = packed.startswith(_BASE64_PREFIXES) or len(packed) >= _LONGEST_PATH
        if is_content and _BASE64.fullmatch(packed):
            return
        if self.fetching.offline:
            raise InvalidRequestError(
                f"This server is offline (BERTH_OFFLINE=1) and cannot fetch URLs. {_INSTEAD}", param=param
            )
        host = host_of(value)
        if host is None:
            _reject(
                f"{param!r} must be the content itself or a plain http or https URL, not {_formatted(value)}. "
                "File paths, other schemes, users in URLs, blanks and control characters are not allowed.",
                param,
            )
        if self.fetching.hosts is not None:
            if host not in self.fetching.hosts:
                _reject(f"{param!r}: host {_formatted(host)} is not allowed: it is not in BERTH_FETCH_HOSTS.", param)
        elif host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]):
            try:
                address = ip_address(host.strip("[]"))
            except ValueError:
                _reject(f"{param!r}: invalid IP address {_formatted(host)}: write it as four decimal numbers.", param)
            if not is_public(address):
                refuse_private(host, param)
        else:
            self.names.add(host)


def refuse_private(host: str, param: str | None = None) -> NoReturn:
    _reject(f"{_formatted(host)} has a private address: only hosts in BERTH_FETCH_HOSTS may have one.", param)


def _reject(message: str, param: str | None) -> NoReturn:
    raise InvalidRequestError(f"{message} {_INSTEAD}", param=param)


def _is_plain(message: Any) -> bool:
    """A role and a text, as nearly all messages are."""
    return type(message) is dict and message.keys() == _MESSAGE and type(message["content"]) is str


def _below(kind: _Kind, name: str) -> _Kind:
    """The kind of the values in a field of this name."""
    if kind is _Kind.OTHER:
        plain = name.lower()
        if _SETTINGS.fullmatch(plain):
            return _Kind.SETTINGS
        if _REFERENCE.search(plain):
            return _Kind.REFERENCE
    return kind


def _looks_like_reference(value: str) -> bool:
    """URL parsers skip blanks and control characters at the start, and some also in the middle."""
    if not (value.isascii() and value.isprintable() and value[:1] != " "):
        value = _BLANK.sub("", value)
    return _LIKE_REFERENCE.match(value) is not None


def _formatted(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:80]}...")
