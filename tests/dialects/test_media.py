"""Requests that no engine's dialect looks into, and what engines answer to them."""

from typing import Any

import pytest
from msgspec.structs import replace

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Media, Operation
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.media import media_request
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.errors import InvalidRequestError

MEDIA = Media(path="/v1/moderations", content_type="application/json", document={"model": "public", "input": "x"})
REQUEST = InferenceRequest(operation=Operation.MEDIA, model="public", body={}, media=MEDIA)
ABLE = [VllmDialect(), SglangDialect(), OpenaiDialect()]


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
def test_request_has_the_engines_model_name(dialect: Dialect) -> None:
    sent = dialect.request(REQUEST, "served")

    assert (sent.path, sent.body) == ("/v1/moderations", b'{"model":"served","input":"x"}')


def test_sglang_request_has_its_served_name() -> None:
    assert b'"model":"qwen3-8b"' in SglangDialect().request(REQUEST, "qwen3:8b").body


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
def test_fields_that_control_the_engine_are_ignored(dialect: Dialect) -> None:
    document = {"model": "public", "input": "x", "vllm_xargs": {"a": 1}, "request_id": "mine", "voice": "a"}
    sent = dialect.request(replace(REQUEST, media=replace(MEDIA, document=document)), "served")

    assert sent.body == b'{"model":"served","input":"x","voice":"a"}'
    assert sent.ignored == ("request_id", "vllm_xargs")


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
def test_form_with_such_a_field_is_rejected(dialect: Dialect) -> None:
    media = replace(FORM, fields={"language": ["en"], "vllm_xargs": ["{}"]})
    with pytest.raises(InvalidRequestError, match="controls the engine") as rejected:
        dialect.request(replace(REQUEST, media=media), "served")

    assert rejected.value.param == "vllm_xargs"


def test_trtllm_does_not_support_media() -> None:
    with pytest.raises(UnsupportedError, match="audio"):
        TrtllmDialect().request(REQUEST, "served")


def test_rejects_a_request_without_media() -> None:
    with pytest.raises(ValueError, match="without its media"):
        media_request(InferenceRequest(operation=Operation.MEDIA, model="m", body={}), "served")


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("body", [b"ID3\x00\xff", b'{"text":"the error"}', b"hello"])
def test_response_body_passes_unread(dialect: Dialect, body: bytes) -> None:
    assert dialect.answer(REQUEST, "public", 200, body) == EngineResponse(body=body)


FORM = Media(path="/v1/audio/transcriptions", content_type="multipart/form-data; boundary=edge", form=b"--edge--")


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(("media", "field"), [(FORM, "stream"), (MEDIA, "stream_format")])
def test_unstreamed_response_to_a_streamed_request_is_unsupported(dialect: Dialect, media: Media, field: str) -> None:
    request = InferenceRequest(operation=Operation.MEDIA, model="public", body={}, media=media, stream=True)

    failure = dialect.answer(request, "public", 200, b'{"text":"hello"}')

    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.param) == (FailureKind.UNSUPPORTED, 400, field)
    assert media.path in failure.message


@pytest.mark.parametrize("dialect", ABLE, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"", FailureKind.UNSUPPORTED),
        (405, b"", FailureKind.UNSUPPORTED),
        (501, b"{}", FailureKind.UNSUPPORTED),
        (400, b'{"error":{"message":"no voice"}}', FailureKind.CLIENT),
        (500, b"boom", FailureKind.ENGINE),
        (200, b"", FailureKind.ENGINE),
        (200, b"null", FailureKind.ENGINE),
        (200, b'{"error":{"message":"boom"}}', FailureKind.ENGINE),
        (200, b'{"object":"error","message":"boom"}', FailureKind.ENGINE),
    ],
)
def test_errors_and_empty_bodies_are_failures(dialect: Dialect, status: int, body: bytes, kind: Any) -> None:
    failure = dialect.answer(REQUEST, "public", status, body)

    assert isinstance(failure, Failure)
    assert failure.kind is kind
