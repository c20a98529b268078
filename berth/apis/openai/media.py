"""OpenAI's audio, images and moderations: parsed as far as routing needs, and forwarded to engines that support them.

Only the model's name is replaced in the body, and responses of any type are returned unchanged. Streaming is supported
for transcriptions and for speech as server-sent events, and rejected elsewhere.
"""

from collections.abc import Mapping
from typing import Final

from berth.apis import model_header
from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, check_fields, integer, mismatch, read_object
from berth.apis.openai.multipart import Part, boundary_of, parts_of
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.canonical import InferenceRequest, Media, Operation
from berth.errors import InvalidRequestError

_FALSE: Final = frozenset({b"false", b"0", b"off", b"no", b""})
_NOT_EMPTY: Final = Rule(holds=bool, expected="a non-empty string or list")
SPEECH: Final[Mapping[str, Rule]] = {"input": TEXT, "stream": BOOLEAN, "stream_format": TEXT}
IMAGES: Final[Mapping[str, Rule]] = {"prompt": TEXT, "n": integer(1), "stream": BOOLEAN}
MODERATIONS: Final[Mapping[str, Rule]] = {"input": _NOT_EMPTY, "stream": BOOLEAN}


class OpenaiMedia(OpenaiEndpoint):
    """POST of JSON. `required`: the required fields besides the model."""

    operation = Operation.MEDIA
    native = True

    def __init__(self, path: str, rules: Mapping[str, Rule], *required: str) -> None:
        self._path = path
        self._rules = {**rules, "model": TEXT}
        self._required = required

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, self._rules, required=self._required)
        if document.get("stream"):
            raise InvalidRequestError(f"'stream' is not supported for {self._path}. Omit it.", param="stream")
        return InferenceRequest(
            operation=Operation.MEDIA,
            model=model_header.model_name(document, headers),
            media=Media(path=self._path, content_type="application/json", document=document),
            body={},
            stream="stream_format" in self._rules and document.get("stream_format") == "sse",
        )


class OpenaiForm(OpenaiEndpoint):
    """POST of a form with a file."""

    operation = Operation.MEDIA
    native = True

    def __init__(self, path: str) -> None:
        self._path = path

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        content_type = headers.get(b"content-type", b"")
        parts = parts_of(body, boundary_of(content_type))
        model = _single_part(parts, "model")
        _single_part(parts, "file")
        if not content_type.isascii():  # it is sent to the engine as a header
            raise InvalidRequestError("content-type must be ASCII.")
        fields: dict[str, list[str]] = {}  # without files
        for part in parts:
            if not part.is_file:
                fields.setdefault(part.name, []).append(body[part.start : part.end].decode("utf-8", "replace"))
        media = Media(
            path=self._path,
            content_type=content_type.decode("ascii"),
            form=body,
            fields=dict(fields),
            model_start=model.start,
            model_end=model.end,
        )
        streams = [body[part.start : part.end].strip().lower() for part in parts if part.name == "stream"]
        return InferenceRequest(
            operation=Operation.MEDIA,
            model=_model_name(body, model),
            media=media,
            body={},
            stream=bool(streams) and streams[-1] not in _FALSE,  # engines use the last one too
        )


def _single_part(parts: list[Part], name: str) -> Part:
    found = [part for part in parts if part.name == name]
    if not found:
        raise InvalidRequestError(
            f"The field {name!r} is missing in the form.", param=name, code="missing_required_parameter"
        )
    if len(found) > 1:
        raise InvalidRequestError(f"The form must have one field {name!r}, not {len(found)}.", param=name)
    return found[0]


def _model_name(body: bytes, part: Part) -> str:
    value = body[part.start : min(part.end, part.start + 1000)]
    try:
        name = value.decode()
    except UnicodeDecodeError:
        name = ""
    if not name.strip() or part.is_file:
        raise mismatch("model", "a model name", value.decode("utf-8", "replace"))
    return name
