import base64
import struct

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, Json, Operation
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from tests.fakes.recordings import inference_request, recording

VECTOR = [0.5, -0.25, 0.0]
TEXT = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


def answered(vector: object, asked: str | None, dialect: DialectName = DialectName.SGLANG) -> Json | Failure:
    request = inference_request({"model": "m", "input": "x", "encoding_format": asked}, Operation.EMBEDDING)
    document = {
        "object": "list",
        "data": [{"index": 0, "embedding": vector}],
        "model": "m",
        "usage": {"prompt_tokens": 3},
    }
    answer = DIALECTS[dialect].answer(request, "m", 200, orjson.dumps(document))
    if isinstance(answer, Failure):
        return answer
    assert answer.usage.prompt_tokens == 3
    shown: Json = orjson.loads(answer.body)
    return shown


@pytest.mark.parametrize(
    ("given", "asked", "shown"),
    [
        (VECTOR, None, VECTOR),
        (VECTOR, "float", VECTOR),
        (VECTOR, "base64", TEXT),
        (TEXT, "base64", TEXT),
        (TEXT, "float", VECTOR),
        (TEXT, None, VECTOR),
    ],
)
@pytest.mark.parametrize("dialect", [DialectName.SGLANG, DialectName.OPENAI])
def test_returns_vectors_in_the_requested_format(
    given: object, asked: str | None, shown: object, dialect: DialectName
) -> None:
    answer = answered(given, asked, dialect)

    assert isinstance(answer, dict)
    assert answer["data"] == [{"index": 0, "embedding": shown}]


@pytest.mark.parametrize("broken", ["not base64!", "AAA=", ["a"]])
def test_invalid_vectors_are_an_engine_failure(broken: object) -> None:
    assert isinstance(answered(broken, "base64" if isinstance(broken, list) else "float"), Failure)


@pytest.mark.parametrize("name", ["vllm/pool/emb_str", "vllm/pool/emb_b64", "vllm/pool/emb_list", "sglang/emb/emb_str"])
def test_recorded_embeddings_in_the_requested_format_stay_byte_for_byte(name: str) -> None:
    seen = recording(name)
    model = orjson.loads(seen.answer)["model"]
    answer = DIALECTS[DialectName.VLLM].answer(seen.request(), model, seen.status, seen.answer)

    assert isinstance(answer, EngineResponse)
    assert answer.body == seen.answer


def test_converts_if_one_vector_has_the_other_format() -> None:
    request = inference_request({"model": "m", "input": ["x", "y"]}, Operation.EMBEDDING)
    document = {"data": [{"index": 0, "embedding": VECTOR}, {"index": 1, "embedding": TEXT}], "model": "m"}
    answer = DIALECTS[DialectName.VLLM].answer(request, "m", 200, orjson.dumps(document))

    assert isinstance(answer, EngineResponse)
    assert [item["embedding"] for item in orjson.loads(answer.body)["data"]] == [VECTOR, VECTOR]
