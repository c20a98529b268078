from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import json_text
from berth.apis.openai.completions import OpenaiCompletions
from berth.apis.tgi.endpoints import TgiGenerate, TgiRoot
from berth.apis.tgi.request import MAX_NEW_TOKENS, PARAMETERS
from berth.canonical import InferenceRequest, Json
from berth.errors import InvalidRequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def parse(parameters: Any = None, **fields: Any) -> InferenceRequest:
    document = {"model": "m", "inputs": "Once", "parameters": parameters, **fields}
    return TgiGenerate(stream=False).parse(orjson.dumps(document))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, {"max_tokens": MAX_NEW_TOKENS, "temperature": 0.0}),
        ({"max_new_tokens": 5, "stop": ["a"], "seed": 3}, {"max_tokens": 5, "stop": ["a"], "seed": 3}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 1.0}, {"temperature": 0.0}),
        ({"top_k": 4}, {"temperature": 1.0, "top_k": 4}),
        ({"top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"do_sample": False, "repetition_penalty": 1.2}, {"temperature": 0.0, "repetition_penalty": 1.2}),
        ({"truncate": 7, "frequency_penalty": 0.1}, {"truncate_prompt_tokens": 7, "frequency_penalty": 0.1}),
        ({"details": True}, {"logprobs": 1}),
        ({"grammar": {"type": "regex", "value": "a+"}}, {"structured_outputs": {"regex": "a+"}}),
        (
            {"grammar": {"type": "json", "value": {"type": "object"}}},
            {"structured_outputs": {"json": {"type": "object"}}},
        ),
        (
            {"grammar": {"type": "json_schema", "value": {"name": "x", "schema": {"type": "object"}}}},
            {"structured_outputs": {"json": {"type": "object"}}},
        ),
        (
            {"best_of": 1, "typical_p": 1.0, "watermark": False, "top_n_tokens": 0, "adapter_id": None},
            {"prompt": "Once"},
        ),
    ],
)
def test_translates_parameters_to_completion_fields(parameters: Any, expected: Json) -> None:
    request = parse(parameters)

    assert expected.items() <= request.body.items()
    assert request.original["inputs"] == "Once"


@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        ({"temperature": 0}, "temperature", "greater than 0"),
        ({"temperature": "hot"}, "temperature", "a number"),
        ({"top_p": 1.5}, "top_p", "at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens", "between 1 and"),
        ({"stop": "x"}, "stop", "a list"),
        ({"best_of": 2}, "best_of", "must not be 2"),
        ({"typical_p": 0.5}, "typical_p", "top_p"),
        ({"watermark": True}, "watermark", "must not be true"),
        ({"top_n_tokens": 3}, "top_n_tokens", "logprobs"),
        ({"decoder_input_details": True}, "decoder_input_details", "prompt"),
        ({"adapter_id": "x"}, "adapter_id", "by its model name"),
        ({"grammar": {"type": "regex", "value": 7}}, "grammar", "must be a string"),
        ({"grammar": {"type": "json", "value": "x"}}, "grammar", "must be an object"),
        ({"grammar": {"type": "xml", "value": "x"}}, "grammar", "json_schema"),
        ([], "parameters", "an object"),
    ],
)
def test_rejects_unsupported_parameters_with_advice(parameters: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        parse(parameters)

    assert refused.value.param == param


def test_endpoint_or_request_selects_streaming() -> None:
    body = orjson.dumps({"inputs": "x", "stream": True})

    assert TgiGenerate(stream=True).parse(b'{"inputs":"x"}').include_usage
    assert not TgiGenerate(stream=False).parse(body).stream
    assert TgiRoot().parse(body).stream
    assert not TgiRoot().parse(b'{"inputs":"x"}').stream


def test_header_names_the_model_if_the_body_does_not() -> None:
    headers = {b"x-berth-model": b"org/chat"}

    assert TgiRoot().parse(b'{"inputs":"x"}', headers).model == "org/chat"
    assert TgiRoot().parse(b'{"inputs":"x","model":"other"}', headers).model == "other"
    assert TgiRoot().parse(b'{"inputs":"x"}').model == ""


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*PARAMETERS]) | st.text(max_size=4), JSON, max_size=4) | JSON, JSON)
def test_any_request_is_rejected_or_becomes_a_valid_completion(parameters: Any, inputs: Any) -> None:
    document = orjson.dumps({"model": "m", "inputs": inputs, "parameters": parameters})
    for api in (TgiRoot(), TgiGenerate(stream=True)):
        try:
            request = api.parse(document)
        except InvalidRequestError:
            continue
        OpenaiCompletions().parse(json_text.dumps(request.body))
