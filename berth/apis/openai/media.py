"""OpenAI's audio, images and moderations: read as far as routing needs it, and passed to engines that have them.

The body goes on as it came but for the model's name, and the answer as the engine gave it, whatever its type. Streamed
are the text of a recording and speech as events; what else could be streamed is refused.
"""

from collections.abc import Mapping
from typing import Final

from berth.apis import model_header
from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, check_fields, integer, read_object, shown
from berth.apis.openai.multipart import Part, boundary_of, parts_of
from berth.apis.openai.passthrough import OpenaiAnswers
from berth.canonical import InferenceRequest, Json, Media, Operation
from berth.errors import InvalidRequestError

_FALSE: Final = frozenset({b"false", b"0", b"off", b"no", b""})
_ANY: Final = Rule(holds=bool, expected="a text, or a list that is not empty")
SPEECH: Final[Mapping[str, Rule]] = {"input": TEXT, "stream": BOOLEAN, "stream_format": TEXT}
IMAGES: Final[Mapping[str, Rule]] = {"prompt": TEXT, "n": integer(1), "stream": BOOLEAN}
MODERATIONS: Final[Mapping[str, Rule]] = {"input": _ANY, "stream": BOOLEAN}


class OpenaiMedia(OpenaiAnswers):
    """POST of JSON. `required`: the fields that there must be beside the model."""

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
            raise InvalidRequestError(
                "'stream': this path is not streamed here in this way. Ask without it.", param="stream"
            )
        return InferenceRequest(
            operation=Operation.MEDIA,
            model=model_header.model_name(document, headers),
            media=Media(path=self._path, content_type="application/json", document=document),
            body={},
            stream="stream_format" in self._rules and document.get("stream_format") == "sse",
        )


class OpenaiForm(OpenaiAnswers):
    """POST of a form with a file."""

    operation = Operation.MEDIA
    native = True

    def __init__(self, path: str) -> None:
        self._path = path

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        content_type = headers.get(b"content-type", b"")
        parts = parts_of(body, boundary_of(content_type))
        model = _only(parts, "model")
        _only(parts, "file")
        wishes = [body[part.start : part.end].strip().lower() for part in parts if part.name == "stream"]
        media = Media(
            path=self._path,
            content_type=_ascii(content_type),
            form=body,
            fields=_texts(body, parts),
            model_start=model.start,
            model_end=model.end,
        )
        return InferenceRequest(
            operation=Operation.MEDIA,
            model=_name(body, model),
            media=media,
            body={},
            stream=bool(wishes) and wishes[-1] not in _FALSE,  # the last one counts to engines too
        )


def _only(parts: list[Part], name: str) -> Part:
    found = [part for part in parts if part.name == name]
    if not found:
        raise InvalidRequestError(
            f"The field {name!r} is missing in the form.", param=name, code="missing_required_parameter"
        )
    if len(found) > 1:
        raise InvalidRequestError(f"The form has {len(found)} fields {name!r}; one is allowed.", param=name)
    return found[0]


def _texts(body: bytes, parts: list[Part]) -> Json:
    """What the form says beside its files."""
    texts: dict[str, list[str]] = {}
    for part in parts:
        if not part.is_file:
            texts.setdefault(part.name, []).append(body[part.start : part.end].decode("utf-8", "replace"))
    return dict(texts)


def _name(body: bytes, part: Part) -> str:
    value = body[part.start : min(part.end, part.start + 1000)]
    try:
        name = value.decode()
    except UnicodeDecodeError:
        name = ""
    if not name.strip() or part.is_file:
        raise InvalidRequestError(
            f"'model' must be a model's name, not {shown(value.decode('utf-8', 'replace'))}.", param="model"
        )
    return name


def _ascii(content_type: bytes) -> str:
    """It becomes a header again."""
    try:
        return content_type.decode("ascii")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError("content-type must be ASCII.") from exc
