from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.apis.openai.chat import OpenaiChat
from berth.apis.tokenize import Detokenize, Tokenize
from berth.canonical import Json
from berth.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "Hello"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "user", "type", "function", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = (
    *("prompt", "messages", "tools", "tool_choice", "inputs", "model", "tokens", "add_special_tokens"),
    *("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "reasoning_effort"),
)


def test_requests_the_token_ids_of_a_prompt() -> None:
    request = Tokenize().parse(b'{"model":"m","prompt":"x","return_token_strs":true,"temperature":1}')

    assert request.body == {"model": "m", "prompt": "x", "return_token_strs": True, "return_token_ids": True}


def test_forwards_the_fields_that_shape_a_chats_prompt() -> None:
    ask = {"messages": MESSAGES, "tool_choice": "none", "reasoning_effort": "low", "max_tokens": 3, "tools": None}
    request = Tokenize().parse(orjson.dumps(ask), {b"x-berth-model": b"m"})

    assert request.body == {
        "model": "m",
        "messages": MESSAGES,
        "tool_choice": "none",
        "reasoning_effort": "low",
        "return_token_ids": True,
    }


@pytest.mark.parametrize("texts", [None, ["a", "b"]])
def test_response_has_all_of_vllms_fields(texts: list[str] | None) -> None:
    canonical = {"count": 2, "tokens": [1, 2], "max_model_len": 9, **({"token_strs": texts} if texts else {})}
    answer = Tokenize().response(Tokenize().parse(b'{"prompt":"x"}'), orjson.dumps(canonical))

    assert orjson.loads(answer) == {**canonical, "token_strs": texts}


def test_recognises_tgis_request_by_its_inputs() -> None:
    request = Tokenize().parse(b'{"inputs":"Hello you","add_special_tokens":false,"parameters":{"seed":1}}')
    canonical = {"count": 3, "tokens": [7, 8, 9], "max_model_len": 9, "token_strs": ["Hell", "o", "\u0120you"]}
    answer = orjson.loads(Tokenize().response(request, orjson.dumps(canonical)))

    assert request.body["add_special_tokens"] is False
    assert answer == [
        {"id": 7, "text": "Hell", "start": 0, "stop": 4},
        {"id": 8, "text": "o", "start": 4, "stop": 5},
        {"id": 9, "text": " you", "start": 5, "stop": 9},
    ]


def test_detokenize_forwards_the_tokens() -> None:
    request = Detokenize().parse(b'{"model":"m","tokens":[1,2],"skip":true}')

    assert request.body == {"model": "m", "tokens": [1, 2]}
    assert Detokenize().response(request, b'{"prompt":"x"}') == b'{"prompt":"x"}'


@pytest.mark.parametrize(
    ("api", "fields", "param"),
    [
        (Tokenize(), {}, "prompt"),
        (Tokenize(), {"prompt": "x", "messages": MESSAGES}, "prompt"),
        (Tokenize(), {"prompt": ["x"]}, "prompt"),
        (Tokenize(), {"messages": []}, "messages"),
        (Tokenize(), {"messages": [{"role": "nobody"}]}, "messages.0.role"),
        (Tokenize(), {"messages": MESSAGES, "tools": [{}]}, "tools.0"),
        (
            Tokenize(),
            {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        (Tokenize(), {"inputs": 7}, "inputs"),
        (Tokenize(), {"prompt": "x", "model": ["m"]}, "model"),
        (Detokenize(), {}, "tokens"),
        (Detokenize(), {"tokens": "x"}, "tokens"),
        (Detokenize(), {"tokens": [1, -1]}, "tokens"),
        (Detokenize(), {"tokens": [True]}, "tokens"),
    ],
)
def test_rejects_invalid_request_and_names_the_field(api: Tokenize | Detokenize, fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        api.parse(orjson.dumps(fields))

    assert refused.value.param == param


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_document_is_rejected_or_becomes_a_prompt(fields: dict[str, Any]) -> None:
    try:
        request = Tokenize().parse(orjson.dumps(fields))
    except InvalidRequestError:
        return
    if "messages" in request.body:
        OpenaiChat().parse(orjson.dumps({**request.body, "model": "m"}))
    else:
        assert isinstance(request.body["prompt"], str)
