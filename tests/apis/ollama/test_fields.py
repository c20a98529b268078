import math

import pytest

from berth.apis.ollama.fields import (
    EMBEDDING,
    GENERATING,
    check,
    generation_fields,
    ignored_fields,
    is_streamed,
    keep_alive_s,
    thinking_fields,
)
from berth.canonical import Json
from berth.errors import InvalidRequestError

SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}}

OPTIONS: dict[str, tuple[Json, Json]] = {
    "nothing": ({}, {}),
    "null": ({"temperature": None, "stop": None}, {}),
    "what has the same name": (
        {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1},
        {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1},
    ),
    "what has another name": (
        {"num_predict": 7, "repeat_penalty": 1.1},
        {"max_tokens": 7, "repetition_penalty": 1.1},
    ),
    "whole numbers as clients of one kind of number write them": (
        {"num_predict": 7.0, "seed": 3.0, "top_k": 40.0},
        {"max_tokens": 7, "seed": 3, "top_k": 40},
    ),
    "without end": ({"num_predict": -1}, {}),
    "to the end of the context": ({"num_predict": -2}, {}),
    "another seed each time": ({"seed": -1}, {}),
    "seed 0": ({"seed": 0}, {"seed": 0}),
    "all tokens": ({"top_k": -1}, {"top_k": 0}),
    "stops": ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
    "one stop": ({"stop": "a"}, {"stop": ["a"]}),
    "no stop": ({"stop": [""]}, {}),
    "nobody's": ({"num_ctx": 4096, "nix": 1}, {}),
}


@pytest.mark.parametrize(("options", "fields"), OPTIONS.values(), ids=OPTIONS)
def test_translates_options(options: Json, fields: Json) -> None:
    assert generation_fields({"options": options}) == fields


WRONG: dict[str, tuple[Json, str]] = {
    "temperature": ({"temperature": "hot"}, r"'options.temperature' must be a number of 0 or more, not \"hot\""),
    "negative temperature": ({"temperature": -1}, "'options.temperature' must be a number of 0 or more, not -1"),
    "true as a number": ({"top_p": True}, "'options.top_p' must be a number between 0 and 1, not true"),
    "top_p": ({"top_p": 1.5}, "'options.top_p' must be a number between 0 and 1, not 1.5"),
    "penalty": ({"presence_penalty": 3}, "'options.presence_penalty' must be a number between -2 and 2, not 3"),
    "half a token": ({"num_predict": 1.5}, "'options.num_predict' must be an integer between"),
    "too many tokens": ({"num_predict": 2**40}, "'options.num_predict' must be an integer between"),
    "a seed that no engine takes": ({"seed": 1e300}, "'options.seed' must be an integer between"),
    "top_k": ({"top_k": "many"}, "'options.top_k' must be an integer between"),
    "repeat_penalty": ({"repeat_penalty": 0}, "'options.repeat_penalty' must be a number greater than 0, not 0"),
    "stop": ({"stop": [1]}, r"'options.stop' must be a list of strings, not \[1\]"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_option_with_value_and_expectation(options: Json, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        generation_fields({"options": options})

    assert caught.value.param == f"options.{next(iter(options))}"


@pytest.mark.parametrize(
    ("wanted", "kind"), [("json", "json_object"), ({}, "json_object"), (SCHEMA, "json_schema"), (None, ""), ("", "")]
)
def test_format_becomes_response_format(wanted: object, kind: str) -> None:
    found = generation_fields({"format": wanted}).get("response_format", {"type": ""})

    assert found["type"] == kind
    assert kind != "json_schema" or found["json_schema"]["schema"] == SCHEMA


def test_think_sets_template_switch_and_reasoning_effort() -> None:
    on, off = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}

    assert thinking_fields(None) == {}
    assert thinking_fields(True) == {"chat_template_kwargs": on}
    assert thinking_fields(False) == {"chat_template_kwargs": off}
    assert thinking_fields("low") == {"chat_template_kwargs": on, "reasoning_effort": "low"}
    assert thinking_fields("max") == {"chat_template_kwargs": on, "reasoning_effort": "high"}


def test_lists_ignored_fields() -> None:
    options = {
        "num_ctx": 4096,
        "mirostat": 2,
        "temperature": 1,
        "low_vram": None,
        "no such\r\noption": 1,
        "temprature": 1,
    }
    document: Json = {"keep_alive": "5m", "truncate": True, "shift": False, "options": options, "context": [1]}

    assert ignored_fields(document, "context") == (
        *("keep_alive", "shift", "truncate", "context", "options.num_ctx", "options.mirostat", "options.temprature"),
    )


def test_neutral_values_are_not_listed_as_ignored() -> None:
    options = {"mirostat": 0, "tfs_z": 1.0, "typical_p": 1}

    assert ignored_fields({"options": options, "keep_alive": None, "context": []}, "context") == ()
    assert ignored_fields({"logprobs": True, "top_logprobs": 2}) == ()
    assert ignored_fields({"top_logprobs": 2}) == ("top_logprobs",)


RULES: dict[str, tuple[Json, str]] = {
    "no model": ({}, "The field 'model' is missing"),
    "another model": ({"model": 7}, "'model' must be a model name, not 7"),
    "stream": ({"stream": "yes"}, "'stream' must be true or false, not \"yes\""),
    "think": ({"think": "hard"}, "'think' must be true, false, 'low' or 'medium' or 'high' or 'max', not \"hard\""),
    "think, a number": ({"think": 1}, "'think' must be true, false"),
    "format": ({"format": "xml"}, "'format' must be 'json' or a JSON schema, not \"xml\""),
    "keep_alive": ({"keep_alive": [1]}, "'keep_alive' must be seconds, or a duration such as '5m'"),
    "options": ({"options": [1]}, "'options' must be an object"),
    "top_logprobs": ({"top_logprobs": 21}, "'top_logprobs' must be an integer between 0 and 20, not 21"),
}


@pytest.mark.parametrize(("document", "message"), RULES.values(), ids=RULES)
def test_rejects_invalid_field_with_value_and_expectation(document: Json, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        check({"model": "m", **document} if document else {}, GENERATING)


def test_accepts_unknown_fields() -> None:
    check({"model": "m", "stream_options": {}, "nix": 1, "think": None}, GENERATING)
    check({"model": "m", "messages": 7}, EMBEDDING)  # passes: no exception


def test_streaming_is_the_default() -> None:
    assert [is_streamed(document) for document in ({}, {"stream": None}, {"stream": True}, {"stream": False})] == [
        *(True, True, True, False),
    ]


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        *(
            (0, 0),
            ("0", 0),
            ("0s", 0),
            ("5m", 300),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("250ms", 0.25),
            (90, 90),
            (1.5, 1.5),
        ),
        *((-1, math.inf), ("-1", math.inf), ("-1m", math.inf), (1e300, math.inf), ("9999999h", math.inf), (None, None)),
    ],
)
def test_keep_alive_is_a_number_of_seconds_or_a_duration(keep_alive: object, seconds: float | None) -> None:
    check({"model": "m", "keep_alive": keep_alive}, GENERATING)
    assert keep_alive_s({"keep_alive": keep_alive}) == seconds


@pytest.mark.parametrize("keep_alive", ["", "soon", "5 m", "m", "1e9", "5x", "--1", True, []])
def test_other_values_of_keep_alive_are_rejected(keep_alive: object) -> None:
    with pytest.raises(InvalidRequestError, match="'keep_alive' must be seconds, or a duration"):
        check({"model": "m", "keep_alive": keep_alive}, GENERATING)
