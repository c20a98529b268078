"""Requests and responses about audio, images and moderations. Their content is passed through unread."""

from typing import Final

from msgspec.structs import replace

from berth import json_text
from berth.canonical import EngineResponse, Failure, InferenceRequest, UpstreamRequest
from berth.dialects.failures import MISSING_ENDPOINT, Judge, engine_failure, failure_of, unsupported_failure
from berth.dialects.requests.fields import refuse_control, without_control

_ERRORS = (b'{"error":{', b'{"object":"error"')  # that engines send with 200
# A field of a form, without the boundary line in front of it.
_USAGE_PART: Final = b'content-disposition: form-data; name="stream_include_usage"\r\n\r\ntrue\r\n'


def media_request(request: InferenceRequest, served_name: str, passed: frozenset[str] = frozenset()) -> UpstreamRequest:
    """The request's own body, with the engine's name for the model and without fields that control the engine.
    InvalidRequestError for such a field in a form, whose parts stay as they are.
    """
    media = request.media
    if media is None:
        raise ValueError("a request of Operation.MEDIA without its media")
    ignored: tuple[str, ...] = ()
    if media.document is not None:
        document, ignored = without_control({**media.document, "model": served_name}, passed)
        body = json_text.dumps(document)
    else:
        refuse_control(media.fields, passed)
        form = memoryview(media.form)
        body = b"".join((form[: media.model_start], served_name.encode(), form[media.model_end :]))
    return UpstreamRequest(path=media.path, body=body, content_type=media.content_type, ignored=ignored)


def with_usage_field(request: InferenceRequest, upstream: UpstreamRequest) -> UpstreamRequest:
    """With the field that vLLM needs in the form of a streamed transcription, or it sends no usage."""
    if request.media is None or not request.stream or not request.media.form:
        return upstream
    # In front of a preamble, which hardly any form has, the field is part of the preamble, without effect. The client's
    # own such field comes later in the form, and counts.
    boundary = upstream.body[: upstream.body.find(b"\r\n") + 2]
    return replace(upstream, body=b"".join((boundary, _USAGE_PART, upstream.body)))


def read_media(request: InferenceRequest, status: int, body: bytes, judge: Judge) -> EngineResponse | Failure:
    """Only servers of such models have these paths: an engine without one has not failed."""
    path = request.media.path if request.media else ""
    if status in MISSING_ENDPOINT:
        return unsupported_failure(f"the engine has no {path} for this model (it returned {status})", "model")
    if not 200 <= status < 300:
        return failure_of(status, body, judge=judge)
    if body in (b"", b"null"):
        return engine_failure("the engine's response is empty")
    if body.startswith(_ERRORS):
        return failure_of(500, body, judge=judge)
    if request.stream:
        field = "stream" if request.media and request.media.form else "stream_format"
        return unsupported_failure(f"the engine does not stream {path}: its response came whole", field)
    return EngineResponse(body=body)
