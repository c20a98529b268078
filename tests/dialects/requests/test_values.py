"""Values that OpenAI's API accepts, at each engine: spelled so that the engine accepts them, with one meaning."""

import contextlib
from typing import Any, Final

import orjson
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.completions import OpenaiCompletions
from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.registry import DIALECTS
from berth.errors import InvalidRequestError
from berth.plan import DialectName
from berth.sim.dialect import Route
from berth.sim.sglang.requests import SglangParser
from berth.sim.trtllm.requests import TrtllmParser
from berth.sim.vllm.requests import VllmParser
from tests.sim.harness import setup

CHAT: Json = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
COMPLETION: Json = {"model": "sim", "prompt": "Hello"}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
ENGINES: Final = (DialectName.VLLM, DialectName.SGLANG, DialectName.TRTLLM)
PARSERS: Final = {
    DialectName.VLLM: VllmParser(setup("vllm")),
    DialectName.SGLANG: SglangParser(setup("sglang")),
    DialectName.TRTLLM: TrtllmParser(setup("trtllm")),
}
GREEDY = {"top_k": 1, "top_p": None}
TINY = {"temperature": 1.0, "top_p": 1e-6, "top_k": None}
# The fields of a chat -> what each engine gets of them, None for a field that it does not get. One entry: of all.
LEGAL: dict[str, tuple[Json, tuple[Json, ...]]] = {
    "top_p 0": ({"top_p": 0}, (GREEDY, GREEDY, {"top_p": 0})),
    "top_p 0.0 and a temperature": (
        {"top_p": 0.0, "temperature": 1.5},
        ({**GREEDY, "temperature": 1.5}, {**GREEDY, "temperature": 1.5}, {"top_p": 0.0, "temperature": 1.5}),
    ),
    "top_p 1": ({"top_p": 1}, ({"top_p": 1},)),
    "temperature 0": ({"temperature": 0}, ({"temperature": 0},)),
    "temperature 2": ({"temperature": 2}, ({"temperature": 2},)),
    "several greedy choices": (
        {"temperature": 0, "n": 2},
        ({"temperature": 1.0, "top_k": 1, "n": 2}, {"temperature": 0, "n": 2}, {**TINY, "n": 2}),
    ),
    "several choices of top_p 0": (
        {"top_p": 0, "n": 2},
        ({**GREEDY, "n": 2}, {**GREEDY, "n": 2}, {**TINY, "n": 2}),
    ),
    "most choices": ({"n": 128}, ({"n": 128},)),
    "one choice": ({"n": 1, "temperature": 0}, ({"n": 1, "temperature": 0},)),
    "least penalties": (
        {"presence_penalty": -2, "frequency_penalty": -2.0},
        ({"presence_penalty": -2, "frequency_penalty": -2.0},),
    ),
    "largest penalties": (
        {"presence_penalty": 2, "frequency_penalty": 2.0},
        ({"presence_penalty": 2, "frequency_penalty": 2.0},),
    ),
    "one token": ({"max_tokens": 1}, ({"max_tokens": 1},)),
    "no limit": ({"max_tokens": None, "max_completion_tokens": None}, ({"max_tokens": None},)),
    "no stop string": ({"stop": []}, ({"stop": None},)),
    "empty stop string": ({"stop": ""}, ({"stop": None},)),
    "empty stop strings": ({"stop": ["", "."]}, ({"stop": ["."]},)),
    "only empty stop strings": ({"stop": [""]}, ({"stop": None},)),
    "most stop strings": ({"stop": ["a", "b", "c", "d"]}, ({"stop": ["a", "b", "c", "d"]},)),
    "seed 0": ({"seed": 0}, ({"seed": 0},)),
    "seed -1": ({"seed": -1}, ({"seed": 2**63 - 1},)),
    "least seed": ({"seed": -(2**63)}, ({"seed": 0},)),
    "largest seed": ({"seed": 2**63 - 1}, ({"seed": 2**63 - 1},)),
    "unsigned seed": ({"seed": 2**64 - 1}, ({"seed": 2**63 - 1},)),
    "no log probabilities": ({"logprobs": False, "top_logprobs": 0}, ({"logprobs": False, "top_logprobs": 0},)),
    "log probabilities without alternatives": ({"logprobs": True, "top_logprobs": 0}, ({"logprobs": True},)),
    "most alternatives": ({"logprobs": True, "top_logprobs": 20}, ({"top_logprobs": 20},)),
    "empty bias": ({"logit_bias": {}}, ({"logit_bias": {}},)),
    "largest bias": ({"logit_bias": {"1": 100, "2": -100}}, ({"logit_bias": {"1": 100, "2": -100}},)),
    "no stream": ({"stream": False, "stream_options": None}, ({"stream_options": None},)),
    "empty stream options": ({"stream_options": {}}, ({"stream_options": None},)),
    "no tools": ({"tools": []}, ({"tools": None, "tool_choice": None},)),
    "no tools to call": ({"tools": [], "tool_choice": "none"}, ({"tools": None, "tool_choice": None},)),
    "no tools to choose": ({"tools": [], "tool_choice": "auto"}, ({"tools": None, "tool_choice": None},)),
    "a choice without tools": ({"tool_choice": "auto"}, ({"tool_choice": None},)),
    "tools as null": ({"tools": None, "tool_choice": None}, ({"tools": None, "tool_choice": None},)),
    "calls in turn": (
        {"parallel_tool_calls": True},
        ({"parallel_tool_calls": True}, {"parallel_tool_calls": True}, {"parallel_tool_calls": None}),
    ),
    "text": ({"response_format": {"type": "text"}}, ({"response_format": {"type": "text"}},)),
    "least effort": (
        {"reasoning_effort": "minimal"},
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ),
    "largest effort": (
        {"reasoning_effort": "xhigh"},
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    ),
    "no effort": (
        {"reasoning_effort": "none"},
        (
            {"reasoning_effort": "none"},
            {"reasoning_effort": "none"},
            {"reasoning_effort": None, "chat_template_kwargs": {"enable_thinking": False}},
        ),
    ),
    "only text": ({"modalities": ["text"]}, ({"modalities": None},)),
    "all that OpenAI keeps": (
        {
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "flex",
            "safety_identifier": "x",
            "prompt_cache_key": "k",
            "verbosity": "low",
            "prediction": {"type": "content", "content": "x"},
        },
        ({"metadata": None, "store": None, "service_tier": None, "verbosity": None},),
    ),
    "a user": ({"user": ""}, ({"user": ""},)),
    "all null": (
        dict.fromkeys(
            (
                *("frequency_penalty", "logit_bias", "logprobs", "n", "presence_penalty", "response_format", "seed"),
                *("service_tier", "store", "stream", "temperature", "top_logprobs", "top_p", "user", "ignore_eos"),
                *("parallel_tool_calls", "reasoning_effort", "skip_special_tokens", "include_stop_str_in_output"),
            )
        ),
        ({"n": None, "ignore_eos": None, "skip_special_tokens": None},),
    ),
}
COMPLETIONS: dict[str, tuple[Json, tuple[Json | None, ...]]] = {
    "no suffix": ({"suffix": ""}, ({"suffix": None},)),
    "best of as many": ({"n": 2, "best_of": 2}, ({"n": 2, "best_of": None},)),
    "best of one": ({"best_of": 1}, ({"best_of": None},)),
    "log probability of each token": ({"logprobs": 0}, ({"logprobs": 0},)),
    "most log probabilities": ({"logprobs": 5}, ({"logprobs": 5},)),
    "top_p 0": ({"top_p": 0}, (GREEDY, GREEDY, {"top_p": 0})),
    "only the prompt": ({"max_tokens": 0, "echo": True}, ({"max_tokens": 0}, None, None)),
    "empty stop string": ({"stop": ["", "a"]}, ({"stop": ["a"]},)),
}


def cases(table: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(engine, given, expected[place if len(expected) > 1 else 0], id=f"{engine}-{name}")
        for name, (given, expected) in table.items()
        for place, engine in enumerate(ENGINES)
    ]


def spelled(engine: DialectName, request: InferenceRequest) -> Json:
    """The engine's request, which the simulated engine of this kind accepts."""
    body: Json = orjson.loads(DIALECTS[engine].request(request, "sim").body)
    PARSERS[engine].parse_generation(Route(request.operation), body, {})
    return body


@pytest.mark.parametrize(("engine", "given", "expected"), cases(LEGAL))
def test_every_engine_accepts_what_is_legal_in_a_chat(engine: DialectName, given: Json, expected: Json) -> None:
    body = spelled(engine, OpenaiChat().parse(orjson.dumps({**CHAT, **given})))

    assert {name: body.get(name) for name in expected} == expected
    assert None not in body.values()


@pytest.mark.parametrize(("engine", "given", "expected"), cases(COMPLETIONS))
def test_every_engine_accepts_what_is_legal_in_a_completion(
    engine: DialectName, given: Json, expected: Json | None
) -> None:
    request = OpenaiCompletions().parse(orjson.dumps({**COMPLETION, **given}))
    if expected is None:
        with pytest.raises(UnsupportedError):
            spelled(engine, request)
        return
    body = spelled(engine, request)

    assert {name: body.get(name) for name in expected} == expected


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_response_has_at_least_one_token(field: str) -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        OpenaiChat().parse(orjson.dumps({**CHAT, field: 0}))
    assert rejected.value.param == field


def test_a_completion_of_no_tokens_repeats_the_prompt() -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        OpenaiCompletions().parse(orjson.dumps({**COMPLETION, "max_tokens": 0}))
    assert rejected.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("engine", "fields", "param"),
    [
        (DialectName.VLLM, {"temperature": 2.1}, "temperature"),
        (DialectName.VLLM, {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ],
)
def test_values_beyond_openais_go_to_another_engine(engine: DialectName, fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        spelled(engine, OpenaiChat().parse(orjson.dumps({**CHAT, **fields})))
    assert rejected.value.param == param


def test_beam_search_has_its_own_choices() -> None:
    body = {**CHAT, "temperature": 0, "n": 4, "use_beam_search": True}

    assert spelled(DialectName.VLLM, OpenaiChat().parse(orjson.dumps(body)))["temperature"] == 0
    assert spelled(DialectName.TRTLLM, OpenaiChat().parse(orjson.dumps(body)))["temperature"] == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", ["temperature", "top_p", "n", "stop", "reasoning_effort", "max_tokens", "seed"])
def test_no_type_of_an_embedding_request_is_an_error_of_berths(engine: DialectName, field: str) -> None:
    """The fields of a chat are not checked there."""
    for value in ("x", [1], {"a": 1}, 1.5, True, -1):
        request = InferenceRequest(
            operation=Operation.EMBEDDING, model="m", body={"model": "m", "input": "x", field: value}
        )
        with contextlib.suppress(UnsupportedError):
            DIALECTS[engine].request(request, "m")
