"""Audio, images and moderations: on their way to an engine, and its answer. Neither is looked into."""

import orjson

from berth.canonical import Answer, Failure, FailureKind, InferenceRequest, UpstreamRequest
from berth.engines.openai_failures import Judge, engine_failure, failure_of

_ERRORS = (b'{"error":{', b'{"object":"error"')  # that engines send with 200
_ABSENT = frozenset({404, 405, 501})


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


def read_media(request: InferenceRequest, status: int, body: bytes, judge: Judge) -> Answer | Failure:
    """Other servers than those with audio or images have no such path: that is no failure of theirs."""
    if status in _ABSENT:
        path = request.media.path if request.media else ""
        return Failure(
            kind=FailureKind.UNSUPPORTED,
            status=400,
            message=f"the engine has no {path} for this model (it answered {status})",
            type="invalid_request_error",
            param="model",
        )
    if not 200 <= status < 300:
        return failure_of(status, body, judge=judge)
    if body in (b"", b"null"):
        return engine_failure("the engine's answer is empty")
    if body.startswith(_ERRORS):
        return failure_of(500, body, judge=judge)
    return Answer(body=body)
