import orjson
import pytest

from berth.apis.openai.completions import OpenaiCompletions
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError


def parse(**fields: object) -> InferenceRequest:
    return OpenaiCompletions().parse(orjson.dumps({"model": "m", "prompt": "Once", **fields}))


def test_parses_a_complete_request() -> None:
    request = parse(stream=True, stream_options={"include_usage": True}, echo=True, logprobs=3)

    assert request.operation is Operation.COMPLETION
    assert (request.model, request.stream, request.include_usage) == ("m", True, True)
    assert request.body["echo"] is True


@pytest.mark.parametrize("prompt", ["", "text", ["a", "b"], [1, 2, 3], [[1], [2]]])
def test_a_prompt_is_text_or_token_ids(prompt: object) -> None:
    assert parse(prompt=prompt).body["prompt"] == prompt


INVALID: dict[str, tuple[Json, str]] = {
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty list": ({"prompt": []}, "prompt"),
    "a mixed list": ({"prompt": [1, "a"]}, "prompt"),
    "logprobs as a boolean": ({"logprobs": True}, "logprobs"),
    "too many logprobs": ({"logprobs": 5000}, "logprobs"),
    "echo as text": ({"echo": "yes"}, "echo"),
    "best_of of 0": ({"best_of": 0}, "best_of"),
    "suffix as a number": ({"suffix": 1}, "suffix"),
    "stream as text": ({"stream": "yes"}, "stream"),
    "no model": ({"model": None}, "model"),
}


@pytest.mark.parametrize(("fields", "param"), INVALID.values(), ids=INVALID)
def test_rejects_invalid_field_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(**fields)

    assert refused.value.param == param
