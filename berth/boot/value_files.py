"""Values that are given as a file: `NAME_FILE=/run/secrets/x` instead of `NAME=...`."""

from pathlib import Path

LARGEST_FILE_BYTES = 2**20


def read_value(path: str) -> str:
    """The file's text less the white space at its end. ValueError says what is wrong with the file."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ValueError(f"the file cannot be read: {reason}") from exc
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"the file is larger than {LARGEST_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as exc:
        raise ValueError("the file is not UTF-8 text") from exc
    if not text:
        raise ValueError("the file is empty")
    return text
