"""Bytes that programs write become lines that can be shown: whole, printable, and without secrets. Sans-io."""

import re

LONGEST_LINE = 8 * 1024  # bytes; a longer one is cut into pieces: Docker cuts at 16 KiB, and JSON needs room

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_UNPRINTABLE = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160), 8232, 8233))
_SECRETS = (
    (re.compile(r"\b(hf_|sk-|nvapi-|ghp_|github_pat_)[A-Za-z0-9_-]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer +)[A-Za-z0-9._~+/=-]{6,}"), r"\1***"),
    # As options, in reprs of settings and of lists of keys, in environments
    (re.compile(r"(?i)(--(?:api-key|hf-token)[ =]|\b(?:api_?key|hf_token|x-api-key)['\"]?\s*[=:]\s*\[?['\"]?)"
                r"(?!(?:None|null|True|False)\b)[A-Za-z0-9._~+/=-]{6,}"), r"\1***"),
)  # fmt: skip


def clean(line: str) -> str:
    """Without colours, without what a terminal would obey, and without what looks like a secret."""
    if not line.isprintable():
        line = _ESCAPES.sub("", line).translate(_UNPRINTABLE)
    return without_secrets(line).rstrip()


def without_secrets(text: str) -> str:
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    return text


class Splitter:
    """Cuts bytes into lines, at line feeds and at the carriage returns of progress bars; empty ones fall out."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        """Longer lines, in bytes, are cut into pieces."""
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        pieces = [piece for line in whole for piece in _cut(line, self._longest)]
        *more, self._rest = _cut(rest, self._longest)
        return [text for piece in (*pieces, *more) if (text := _text(piece))]

    def flush(self) -> list[str]:
        """What came without an end of line: a dying process's last words, the last state of a progress bar."""
        text, self._rest = _text(self._rest), b""
        return [text] if text else []

    @property
    def held_bytes(self) -> int:
        return len(self._rest)


def _cut(line: bytes, longest: int) -> list[bytes]:
    """Pieces that are short enough, none of them ending inside a character. At least one, which may be empty."""
    pieces = []
    while len(line) > longest:
        end = longest
        while end > longest - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _text(data: bytes) -> str:
    return clean(data.decode("utf-8", "replace"))
