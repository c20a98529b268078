import orjson
import pytest

from berth.apis.openai.embeddings import OpenaiEmbeddings
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError


def parse(**fields: object) -> InferenceRequest:
    return OpenaiEmbeddings().parse(orjson.dumps({"model": "m", "input": "Hello", **fields}))


@pytest.mark.parametrize("value", ["Hello", ["a", "b"], [1, 2], [[1], [2]]])
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_accepts_texts_and_token_ids(value: object, encoding: str | None) -> None:
    request = parse(input=value, encoding_format=encoding, dimensions=8)

    assert request.operation is Operation.EMBEDDING
    assert request.body["input"] == value
    assert not request.stream


INVALID: dict[str, tuple[Json, str]] = {
    "no input": ({"input": None}, "input"),
    "no inputs": ({"input": []}, "input"),
    "input as an object": ({"input": {}}, "input"),
    "unknown form": ({"encoding_format": "bytes"}, "encoding_format"),
    "form of another type": ({"encoding_format": ["float"]}, "encoding_format"),
    "no dimensions": ({"dimensions": 0}, "dimensions"),
    "dimensions as text": ({"dimensions": "8"}, "dimensions"),
    "no model": ({"model": None}, "model"),
}


@pytest.mark.parametrize(("fields", "param"), INVALID.values(), ids=INVALID)
def test_rejects_invalid_field_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(**fields)

    assert refused.value.param == param
