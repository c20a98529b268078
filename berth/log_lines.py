"""Splits the output of programs into printable lines with masked secrets. Sans-io."""

import re

MAX_LINE = 8 * 1024  # bytes; longer lines are split: Docker splits at 16 KiB, and JSON needs extra space

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_UNPRINTABLE = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160), 8232, 8233))
_SECRETS = (
    (re.compile(r"\b(hf_|sk-|nvapi-|ghp_|github_pat_|berth-admin-)[A-Za-z0-9_-]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer +)[A-Za-z0-9._~+/=-]{6,}"), r"\1***"),
    # in options, in reprs of settings and of lists of keys, in environments
    (re.compile(r"(?i)(--(?:api-key|hf-token)[ =]|\b(?:api_?key|hf_token|x-api-key)['\"]?\s*[=:]\s*\[?['\"]?)"
                r"(?!(?:None|null|True|False)\b)[A-Za-z0-9._~+/=-]{6,}"), r"\1***"),
)  # fmt: skip


def clean(line: str) -> str:
    """Without colours, control characters and secrets."""
    if not line.isprintable():
        line = _ESCAPES.sub("", line).translate(_UNPRINTABLE)
    return mask_secrets(line).rstrip()


def mask_secrets(text: str) -> str:
    for secret, mask in _SECRETS:
        text = secret.sub(mask, text)
    return text


class Splitter:
    """Splits bytes into lines, at line feeds and at the carriage returns of progress bars. Drops empty lines."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        """Lines of more than `max_line` bytes are split."""
        self._max_line = max_line
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *complete, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        pieces = [piece for line in complete for piece in _split(line, self._max_line)]
        *more, self._rest = _split(rest, self._max_line)
        return [text for piece in (*pieces, *more) if (text := _text(piece))]

    def flush(self) -> list[str]:
        """The last line without a newline: of a process that died, or of a progress bar."""
        text, self._rest = _text(self._rest), b""
        return [text] if text else []

    @property
    def held_bytes(self) -> int:
        return len(self._rest)


def _split(line: bytes, max_bytes: int) -> list[bytes]:
    """Pieces that do not end inside a character. At least one, which may be empty."""
    pieces = []
    while len(line) > max_bytes:
        end = max_bytes
        while end > max_bytes - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _text(data: bytes) -> str:
    return clean(data.decode("utf-8", "replace"))
