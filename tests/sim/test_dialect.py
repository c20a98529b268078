import pytest

from berth.sim.body_validation import RejectionError
from berth.sim.dialect import EmbeddingRequest, detail, engine_error
from berth.sim.sglang.routes import Sglang
from berth.sim.trtllm.routes import Trtllm
from berth.sim.vllm.routes import Vllm
from tests.sim.harness import setup


def test_fastapi_errors_have_a_detail() -> None:
    page = detail(405, "Method Not Allowed", (("allow", "GET"),))
    assert (page.status, page.body, page.headers) == (405, b'{"detail":"Method Not Allowed"}', (("allow", "GET"),))


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (500, (b"InternalServerError", b"InternalServerError", b"InternalServerError")),
        (503, (b"Service Unavailable", b"503", b"InternalServerError")),
        (418, (b"InternalServerError", b"418", b"InternalServerError")),
    ],
)
def test_engine_error_has_the_dialects_shape(status: int, kinds: tuple[bytes, ...]) -> None:
    dialects = (Vllm(setup("vllm")), Sglang(setup("sglang")), Trtllm(setup("trtllm")))
    pages = [engine_error(dialect, status) for dialect in dialects]
    assert [page.status for page in pages] == [status] * 3
    assert [b'"type":"' + kind + b'"' in page.body for kind, page in zip(kinds, pages, strict=True)] == [True] * 3
    assert [page.body.startswith(b'{"error":{') for page in pages] == [True, False, False]


def test_tensorrt_llm_has_no_key_no_queue_limit_and_no_embeddings() -> None:
    made = Trtllm(setup("trtllm"))
    assert (made.needs_key("/v1/models"), made.queue_full(stream=True)) == (False, None)
    with pytest.raises(RejectionError):
        made.formatter.embeddings(EmbeddingRequest(model="m", inputs=(), base64=False))
