import orjson
import pytest

from berth import errors
from berth.apis.tgi.endpoints import TgiGenerate, TgiRoot, info
from berth.canonical import Json
from tests.apis.tgi.judge import request

LOGPROBS: Json = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.5], "top_logprobs": [], "text_offset": []}


def canonical_response(**choice: object) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return orjson.dumps({"choices": [{"index": 0, "text": "ab", "finish_reason": "stop", **choice}], "usage": usage})


def test_response_without_details_is_the_text() -> None:
    assert TgiGenerate(stream=False).response(request(stream=False), canonical_response()) == b'{"generated_text":"ab"}'
    assert TgiRoot().response(request(stream=False), canonical_response()) == b'[{"generated_text":"ab"}]'


def test_return_full_text_puts_the_prompt_first() -> None:
    answer = TgiGenerate(stream=False).response(request(stream=False, return_full_text=True), canonical_response())

    assert orjson.loads(answer) == {"generated_text": "Onceab"}


def test_details_contain_the_tokens() -> None:
    asked = request(stream=False, details=True, seed=9)
    details = orjson.loads(TgiGenerate(stream=False).response(asked, canonical_response(logprobs=LOGPROBS)))["details"]

    assert [(one["text"], one["logprob"]) for one in details["tokens"]] == [("a", -1.0), ("b", -2.5)]
    assert (details["generated_tokens"], details["seed"], details["prefill"]) == (2, 9, [])


def test_text_without_logprobs_is_one_token() -> None:
    asked = request(stream=False, details=True)
    answers = [
        TgiGenerate(stream=False).response(asked, body) for body in (canonical_response(), canonical_response(text=""))
    ]

    tokens = [[one["text"] for one in orjson.loads(answer)["details"]["tokens"]] for answer in answers]
    assert tokens == [["ab"], []]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ApiError("x"), 500, "generation"),
        (errors.InvalidRequestError("x"), 422, "validation"),
        (errors.ContextLengthError("x"), 422, "validation"),
        (errors.AuthenticationError("x"), 401, "authentication"),
        (errors.ModelNotFoundError("x"), 404, "validation"),
        (errors.MethodNotAllowedError("x"), 405, "validation"),
        (errors.RequestTimeoutError("x"), 408, "validation"),
        (errors.TooLargeError("x"), 413, "validation"),
        (errors.OverloadedError("x"), 429, "overloaded"),
        (errors.UpstreamError("x"), 424, "generation"),
        (errors.NotReadyError("x"), 503, "healthcheck"),
    ],
)
def test_errors_have_tgis_statuses_and_types(error: errors.ApiError, status: int, kind: str) -> None:
    api = TgiRoot()

    assert api.status(error) == status
    assert orjson.loads(api.error(error)) == {"error": "x", "error_type": kind}


def test_info_contains_known_limits() -> None:
    known, unknown = info("m", 4096, "1.0"), info("m", None, "1.0")

    assert (known["model_id"], known["max_input_tokens"], known["max_total_tokens"]) == ("m", 4095, 4096)
    assert "max_total_tokens" not in unknown
