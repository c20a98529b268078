import orjson
import pytest

from berth.canonical import FailureKind, Json
from berth.dialects.failures import LONGEST_MESSAGE, clean, engine_failure, failure_of
from tests.fakes.recordings import recording

CLIENT, OVERLOADED, ENGINE = FailureKind.CLIENT, FailureKind.OVERLOADED, FailureKind.ENGINE
CONFIG, LOADING, UNSUPPORTED = FailureKind.CONFIG, FailureKind.LOADING, FailureKind.UNSUPPORTED

RECORDED = [
    ("vllm/base/err_ctx_too_long", CLIENT, 400, "context_length_exceeded"),
    ("vllm/base/err_ctx_maxtok_too_big", CLIENT, 400, "context_length_exceeded"),
    ("vllm/base/err_temperature_neg", CLIENT, 400, None),
    ("vllm/base/err_null_content", CLIENT, 400, None),
    ("vllm/base/err_comp_oov", CLIENT, 400, None),
    ("vllm/base/err_unknown_model", CONFIG, 502, "engine_failed"),
    ("vllm/base/err_404", ENGINE, 502, "engine_failed"),
    ("vllm/base/err_405", ENGINE, 502, "engine_failed"),
    ("vllm/base/auth_none_chat", CONFIG, 502, "engine_failed"),
    ("vllm/life/dead_engine_chat", ENGINE, 502, "engine_failed"),
    ("vllm/life/drain_newreq", ENGINE, 502, "engine_failed"),
    ("vllm/misc/queue_5", OVERLOADED, 429, "overloaded"),
    ("vllm/misc/notool_auto", FailureKind.UNSUPPORTED, 400, None),
    ("vllm/pool/emb_too_long", CLIENT, 400, "context_length_exceeded"),
    ("sglang/base/err_too_long", CLIENT, 400, "context_length_exceeded"),
    ("sglang/base/err_too_many_tokens", CLIENT, 400, "context_length_exceeded"),
    ("sglang/base/err_bad_role", CLIENT, 400, None),
    ("sglang/base/err_logit_bias", CLIENT, 400, None),
    ("sglang/base/err_array", ENGINE, 502, "engine_failed"),
    ("sglang/base/err_queue_full", OVERLOADED, 429, "overloaded"),
    ("sglang/base/auth_401", CONFIG, 502, "engine_failed"),
    ("sglang/emb/emb_long", CLIENT, 400, "context_length_exceeded"),
    ("sglang/emb/emb_empty", CLIENT, 400, None),
]


@pytest.mark.parametrize(("name", "kind", "status", "code"), RECORDED)
def test_classifies_recorded_errors(name: str, kind: FailureKind, status: int, code: str | None) -> None:
    seen = recording(name)
    failure = failure_of(seen.status, seen.answer)

    assert (failure.kind, failure.status, failure.code) == (kind, status, code)
    assert failure.message


SHAPES = {
    "nested": (b'{"error":{"message":"boom","type":"t","param":"p","code":400}}', "boom"),
    "flat": (b'{"object":"error","message":"boom","code":400}', "boom"),
    "a string": (b'{"error":"boom"}', "boom"),
    "detail": (b'{"detail":"boom"}', "boom"),
    "details": (b'{"detail":[{"msg":"boom"}]}', '[{"msg":"boom"}]'),
    "text": (b"boom", "boom"),
    "a list": (b'["boom"]', '["boom"]'),
    "details with what the client sent": (b'{"detail":[{"msg":"boom","input":["x","y"]},"z"]}', '[{"msg":"boom"},"z"]'),
    "bytes that are no text": (b"\xff\xfe", "\ufffd\ufffd"),
    "nested beyond reason": (
        b'{"detail":' + b"[" * 500 + b"]" * 500 + b"}",
        "the engine returned 400 without a message",
    ),
}


@pytest.mark.parametrize(("body", "message"), SHAPES.values(), ids=SHAPES)
def test_reads_the_message_of_every_form(body: bytes, message: str) -> None:
    failure = failure_of(400, body)

    assert failure.message == message
    assert failure.kind is CLIENT


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, CLIENT), (413, CLIENT), (422, CLIENT)),
        *((301, ENGINE), (404, ENGINE), (500, ENGINE), (502, ENGINE), (503, ENGINE), (504, ENGINE)),
        *((401, CONFIG), (402, CONFIG), (403, CONFIG), (429, OVERLOADED)),
    ],
)
def test_classifies_by_status(status: int, kind: FailureKind) -> None:
    failure = failure_of(status, b'{"error":"x"}')

    assert failure.kind is kind
    assert failure.final is (kind is CLIENT)


@pytest.mark.parametrize("body", [b"", b"null", b'{"error":{}}', b'{"detail":""}'])
@pytest.mark.parametrize(("status", "kind"), [(400, ENGINE), (422, ENGINE), (413, CLIENT)])
def test_rejection_without_a_word_is_no_clients_fault(status: int, kind: FailureKind, body: bytes) -> None:
    failure = failure_of(status, body)

    assert failure.kind is kind
    assert failure.message == f"the engine returned {status} without a message"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"message": "Loading model", "type": "unavailable_error", "code": 503}, LOADING),
        ({"message": "The model is currently loading"}, LOADING),
        ({"message": "m is queued to start; at full capacity soon", "code": "model_not_ready"}, LOADING),
        ({"message": "Server is busy loading requests"}, OVERLOADED),
        ({"message": "The request queue is full."}, OVERLOADED),
        ({"message": "EngineDeadError"}, ENGINE),
        ({"message": "m is not available", "code": "model_failed"}, ENGINE),
    ],
)
def test_status_503_is_judged_by_its_words(body: Json, kind: FailureKind) -> None:
    assert failure_of(503, orjson.dumps({"error": body})).kind is kind


def test_param_is_the_clients_field() -> None:
    body = b'{"error":{"message":"bad","param":"body.temperature","code":"weird"}}'
    failure = failure_of(400, body)

    assert (failure.param, failure.code, failure.type) == ("temperature", "weird", "invalid_request_error")


@pytest.mark.parametrize("name", ["err_bad_json", "err_bad_role", "err_type", "err_no_messages"])
def test_removes_tracebacks(name: str) -> None:
    failure = failure_of(400, recording(f"sglang/base/{name}").answer)

    assert "site-packages" not in failure.message
    assert "http_server.py" not in failure.message
    assert "validation error" in failure.message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Model '/data/models/tiny' has no x", "Model 'tiny' has no x"),
        ("see https://example.com/a/b/c", "see https://example.com/a/b/c"),
        ("no model Qwen/Qwen3-8B here", "no model Qwen/Qwen3-8B here"),
        ("x" * 5000, "x" * LONGEST_MESSAGE + " ..."),
        ("a" + "\n" * 1_000_000 + "b", "a"),
    ],
)
def test_clean_removes_folders_and_limits_the_length(message: str, shown: str) -> None:
    assert clean(message) == shown


def test_engine_failure_limits_the_message() -> None:
    assert len(engine_failure("x" * 5000).message) == LONGEST_MESSAGE + len(" ...")


def test_unsupported_failure_names_the_field() -> None:
    error = {"error": {"message": "Extra inputs are not permitted", "param": "store"}}
    failure = failure_of(400, orjson.dumps(error))

    assert (failure.kind, failure.param, failure.final) == (FailureKind.UNSUPPORTED, "store", False)


def test_nan_in_a_response_is_an_engine_failure() -> None:
    """As vLLM answers where its own result is NaN."""
    message = "Out of range float values are not JSON compliant"
    failure = failure_of(400, orjson.dumps({"error": {"message": message, "type": "BadRequestError", "code": 400}}))

    assert (failure.kind, failure.status) == (ENGINE, 502)
