import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import EmbeddingsResponse, EmbedResponse

from berth import json_text
from berth.apis.base import Immediate
from berth.apis.ollama.embed import OllamaEmbed, OllamaEmbeddings
from berth.apis.openai.embeddings import OpenaiEmbeddings
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError, UpstreamError
from tests.apis.ollama.documents import EMBEDDINGS, JSON, mutated

CANONICAL = orjson.dumps(
    {
        "data": [{"index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [0.25, 1.0]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
)


def parse(api: OllamaEmbed | OllamaEmbeddings, **fields: object) -> InferenceRequest:
    request = api.parse(orjson.dumps({"model": "m", **fields}))
    assert isinstance(request, InferenceRequest)
    return request


@pytest.mark.parametrize("given", ["a", ["a", "b"]])
def test_translates_an_embedding_request(given: object) -> None:
    request = parse(OllamaEmbed(), input=given, dimensions=7, truncate=True, options={"num_ctx": 1}, keep_alive="5m")

    assert request.operation is Operation.EMBEDDING
    assert request.body == {"model": "m", "input": given, "dimensions": 7}
    assert request.ignored == ("keep_alive", "truncate", "options")
    assert not request.stream


def test_dimensions_of_0_are_omitted() -> None:
    assert "dimensions" not in parse(OllamaEmbed(), input="a", dimensions=0).body


def test_vectors_are_in_the_order_of_their_texts() -> None:
    api = OllamaEmbed()
    written = api.response(parse(api, input=["a", "b"]), CANONICAL)

    answer = EmbedResponse.model_validate_json(written, strict=True)
    assert (answer.model, answer.embeddings, answer.prompt_eval_count) == ("m", [[0.25, 1.0], [0.5]], 4)
    assert answer.total_duration is not None
    assert answer.total_duration > 0


def test_superseded_endpoint_returns_one_vector() -> None:
    api = OllamaEmbeddings()
    request = parse(api, prompt="a")
    body = b'{"data":[{"index":0,"embedding":[0.5]}]}'

    assert request.body == {"model": "m", "input": "a"}
    assert EmbeddingsResponse.model_validate_json(api.response(request, body), strict=True).embedding == [0.5]


@pytest.mark.parametrize(
    ("api", "fields", "body"),
    [
        (OllamaEmbed(), {"input": ""}, {"model": "m", "embeddings": []}),
        (OllamaEmbed(), {"input": []}, {"model": "m", "embeddings": []}),
        (OllamaEmbed(), {}, {"model": "m", "embeddings": []}),
        (OllamaEmbeddings(), {"prompt": ""}, {"embedding": []}),
    ],
)
def test_empty_input_gets_no_vectors(api: OllamaEmbed | OllamaEmbeddings, fields: Json, body: Json) -> None:
    answer = api.parse(orjson.dumps({"model": "m", **fields}))

    assert isinstance(answer, Immediate)
    assert orjson.loads(answer.body) == body


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": [1, 2]}, r"'input' must be a string or a list of strings, not \[1,2\]"),
        ({"input": "a", "dimensions": -1}, "'dimensions' must be an integer of 0 or more"),
        ({"input": "a", "model": ""}, "'model' must be a model name"),
    ],
)
def test_rejects_invalid_field_by_name(fields: Json, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(OllamaEmbed(), **fields)


def test_stream_encoder_can_fail() -> None:
    api = OllamaEmbed()

    assert api.stream(parse(api, input="a")).fail(UpstreamError("x")) == b'{"error":"x"}\n'


@settings(max_examples=100, deadline=None)
@given(document=st.one_of(JSON, *(mutated(document) for document in EMBEDDINGS)), old=st.booleans())
def test_any_request_is_rejected_or_valid_for_every_engine(document: object, old: bool) -> None:
    api = OllamaEmbeddings() if old else OllamaEmbed()
    try:
        request = api.parse(orjson.dumps(document))
    except InvalidRequestError:
        return
    if isinstance(request, InferenceRequest):
        OpenaiEmbeddings().parse(json_text.dumps(request.body))
