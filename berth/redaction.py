"""Texts that people get to read, without the secrets in them: captured requests, and the report for support.

Three things are replaced by `***`: values that are known to be secret; API keys of which only the digest is known; and
what looks like a secret by where it stands: in a header, a URL, an assignment.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import quote

from berth.log_lines import mask_secrets

MASK: Final = "***"
SHORTEST: Final = 4  # of a known value: shorter ones would be found everywhere
NO_SECRET: Final = re.compile(r"(?i)true|false|none|null|[0-9.]{1,7}")  # values of variables that others have too
SECRET_WORD: Final = re.compile(
    r"(?i)pass(?:word|wd|phrase)|secret|credential|api[_-]?key|private[_-]?key|access[_-]?key|authorization|cookie"
    r"|(?:^|[_-])(?:keys?|auth|tokens?|pat)\Z"
)
_WORD: Final = re.compile(r"[A-Za-z0-9_.~+-]{16,256}")
# What stands before a name is not looked at, and every part that repeats is short or ends before the next one can
# begin: they take linear time in any text. A text without any of the words in front is not searched.
_IS: Final = r"(?:(?:\\?['\"])?\s{0,9}[:=]\s{0,9}(?:b?\\?['\"])?|\\?['\"],\s{0,9}b?\\?['\"])"
_TOKENS: Final = ("access", "auth", "api", "hf", "hub", "bearer", "refresh", "session", "git", "vault")
_PATTERNS: Final = (
    # scheme://user:password@host
    (("@",), re.compile(r"(:(?:\\?/){2})[^\s/'\"@<>]+@"), rf"\1{MASK}@"),
    # ?api_key=, &X-Amz-Signature=
    (
        ("?", "&"),
        re.compile(
            r"(?i)([?&][a-z0-9_.-]{0,40}(?:key|token|secret|sig|signature|passw(?:or)?d|credential|auth)=)"
            r"[^&\s'\"#<>]+"
        ),
        rf"\1{MASK}",
    ),
    # headers, also in dumps of their names and values
    (
        ("authorization", "cookie", "api-key", "auth-token", "secret-token"),
        re.compile(rf"(?i)(authorization|cookie|api-key|(?:auth|secret)-token)({_IS})(?!\s)[^\r\n'\"\\]+"),
        rf"\1\2{MASK}",
    ),
    # PASSWORD=..., "client_secret": "..."
    (
        (
            *("passw", "passphrase", "secret", "credential"),
            *(f"{kind}{line}key" for kind in ("api", "private", "access") for line in ("", "_")),
            *(f"{kind}{line}token" for kind in _TOKENS for line in ("", "_")),
        ),
        re.compile(
            r"(?i)(passw(?:or)?d|passphrase|secret|credentials?|(?:api|private|access)_?key"
            rf"|(?:{'|'.join(_TOKENS)})_?token)({_IS})(?!(?:none|null|true|false)\b|\*\*\*)[^\s'\",;}}\\]{{3,}}"
        ),
        rf"\1\2{MASK}",
    ),
    (
        ("-----begin",),
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
)


class Redactor:
    """Knows an appliance's secrets."""

    def __init__(self, values: Iterable[str] = (), digests: Collection[str] = ()) -> None:
        """`digests`: SHA-256, hexadecimal, of keys that are not known themselves."""
        known = [value for value in values if len(value) >= SHORTEST and not NO_SECRET.fullmatch(value)]
        in_json = {json.dumps(value, ensure_ascii=ascii_only)[1:-1] for value in known for ascii_only in (True, False)}
        spelled = {*known, *in_json, *(quote(value, safe="") for value in known)}
        longest_first = sorted(spelled, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if spelled else None
        self._digests = frozenset(digests)

    def text(self, text: str) -> str:
        """Without secrets."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        if self._digests:
            text = _WORD.sub(self._without_key, text)
        lowered = text.lower()
        for words, pattern, mask in _PATTERNS:
            if any(word in lowered for word in words):
                text = pattern.sub(mask, text)
        return mask_secrets(text)

    def _without_key(self, word: re.Match[str]) -> str:
        found = word[0]
        for key in (found, found.rstrip(".~+-")):
            if hashlib.sha256(key.encode()).hexdigest() in self._digests:
                return found.replace(key, MASK)
        return found


def is_secret(name: str) -> bool:
    """Whether a header or a variable of this name holds a secret."""
    return SECRET_WORD.search(name) is not None
