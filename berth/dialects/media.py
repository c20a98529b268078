"""Audio, images and moderations: on their way to an engine, and its answer. Neither is looked into."""

from dataclasses import replace
from typing import Final

import orjson

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, UpstreamRequest
from berth.dialects.failures import Judge, engine_failure, failure_of

_ERRORS = (b'{"error":{', b'{"object":"error"')  # that engines send with 200
_ABSENT = frozenset({404, 405, 501})
# A form's field, behind the line that begins its parts.
_USAGE_PART: Final = b'content-disposition: form-data; name="stream_include_usage"\r\n\r\ntrue\r\n'


def media_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """The request's own body, with the engine's name for the model."""
    media = request.media
    if media is None:
        raise ValueError("a request of Operation.MEDIA without its media")
    if media.document is not None:
        body = orjson.dumps({**media.document, "model": served_name})
    else:
        form = memoryview(media.form)
        body = b"".join((form[: media.model_start], served_name.encode(), form[media.model_end :]))
    return UpstreamRequest(path=media.path, body=body, content_type=media.content_type)


def asking_for_usage(request: InferenceRequest, wanted: UpstreamRequest) -> UpstreamRequest:
    """`wanted` with vLLM's word for usage in the stream of a recording's text: it tells none unasked."""
    if request.media is None or not request.stream or not request.media.form:
        return wanted
    # Before a preamble, which hardly any form has, it is a part of that, and without effect. The client's own word
    # comes later in the form, and counts.
    line = wanted.body[: wanted.body.find(b"\r\n") + 2]
    return replace(wanted, body=b"".join((line, _USAGE_PART, wanted.body)))


def read_media(request: InferenceRequest, status: int, body: bytes, judge: Judge) -> EngineResponse | Failure:
    """Other servers than those with audio or images have no such path: that is no failure of theirs."""
    path = request.media.path if request.media else ""
    if status in _ABSENT:
        return _unsupported(f"the engine has no {path} for this model (it answered {status})", "model")
    if not 200 <= status < 300:
        return failure_of(status, body, judge=judge)
    if body in (b"", b"null"):
        return engine_failure("the engine's answer is empty")
    if body.startswith(_ERRORS):
        return failure_of(500, body, judge=judge)
    if request.stream:
        return _unsupported(f"the engine does not stream {path}: it gave the whole answer", _stream_field(request))
    return EngineResponse(body=body)


def _stream_field(request: InferenceRequest) -> str:
    """What asked for the stream."""
    return "stream" if request.media and request.media.form else "stream_format"


def _unsupported(message: str, param: str) -> Failure:
    return Failure(kind=FailureKind.UNSUPPORTED, status=400, message=message, type="invalid_request_error", param=param)
