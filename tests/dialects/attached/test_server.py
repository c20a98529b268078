"""What the dialects of attached servers send, refuse, and find missing in a response."""

from typing import Any

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, Json, Operation
from berth.dialects.attached.server import AttachedDialect
from berth.dialects.base import UnsupportedError
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from tests.fakes.recordings import inference_request

SCHEMA: Json = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("look", "see")]
NAMED: Json = {"type": "function", "function": {"name": "see"}}
ATTACHED = [name for name, dialect in DIALECTS.items() if isinstance(dialect, AttachedDialect)]
EMBEDDERS = {DialectName.TEI, DialectName.INFINITY}
GENERATORS = [name for name in ATTACHED if name not in {*EMBEDDERS, DialectName.OLLAMA}]


def spelled(name: DialectName, fields: Json, operation: Operation = Operation.CHAT) -> Json:
    body = {"messages": MESSAGES} if operation is Operation.CHAT else {"prompt": "Hi"}
    sent = DIALECTS[name].request(inference_request({**body, **fields}, operation), "far")
    document: Json = orjson.loads(sent.body)
    assert document.pop("model") == "far"
    return {field: value for field, value in document.items() if field not in body or value != body[field]}


def refused(name: DialectName, fields: Json, operation: Operation = Operation.CHAT) -> str | None:
    with pytest.raises(UnsupportedError) as error:
        spelled(name, fields, operation)
    return error.value.param


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (DialectName.OPENAI, {"max_tokens": 5, "max_completion_tokens": 5}),
        (DialectName.OPENAI_CLOUD, {"max_completion_tokens": 5}),
        (DialectName.LLAMACPP, {"max_tokens": 5}),
        (DialectName.LLAMACPP_PYTHON, {"max_tokens": 5}),
        (DialectName.TRANSFORMERS, {"max_tokens": 5}),
        (DialectName.MLX, {"max_tokens": 5, "max_completion_tokens": 5}),
    ],
)
@pytest.mark.parametrize("written", ["max_tokens", "max_completion_tokens"])
def test_limit_is_one_that_the_server_reads(name: DialectName, sent: Json, written: str) -> None:
    assert spelled(name, {written: 5}) == sent


CONSTRAINTS: list[tuple[Json, str]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, "json"),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json"),
    ({"guided_json": SCHEMA}, "json"),
    ({"structured_outputs": {"json": SCHEMA}}, "json"),
    ({"response_format": {"type": "json_object"}}, "json_object"),
    ({"guided_choice": ["a", 'b"']}, "choice"),
    ({"guided_grammar": "root ::= x"}, "grammar"),
    ({"ebnf": "root ::= x"}, "grammar"),
    ({"regex": "[0-9]"}, "regex"),
    ({"structured_outputs": {"regex": "[0-9]"}}, "regex"),
    ({"response_format": {"type": "structural_tag", "structures": []}}, "structural_tag"),
]
OPENAIS: Json = {
    "json": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    },
    "json_object": {"response_format": {"type": "json_object"}},
}
LLAMACPPS: Json = {
    "json": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "json_object": {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
    "choice": {"grammar": 'root ::= "a" | "b\\""'},
    "grammar": {"grammar": "root ::= x"},
}
KEPT: dict[DialectName, Json] = {
    DialectName.OPENAI: OPENAIS,
    DialectName.OPENAI_CLOUD: OPENAIS,
    DialectName.LLAMACPP: LLAMACPPS,
    DialectName.LLAMACPP_PYTHON: {kind: LLAMACPPS[kind] for kind in ("json", "json_object")},
    DialectName.TRANSFORMERS: {},
    DialectName.MLX: {},
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(("fields", "kind"), CONSTRAINTS)
def test_constraint_is_kept_or_refused_in_every_spelling(name: DialectName, fields: Json, kind: str) -> None:
    if kind in KEPT[name]:
        assert spelled(name, fields) == KEPT[name][kind]
    else:
        assert refused(name, fields) == next(iter(fields))


@pytest.mark.parametrize(("fields", "kind"), CONSTRAINTS)
def test_llamacpp_reads_constraints_of_completions_in_fields_of_their_own(fields: Json, kind: str) -> None:
    expected = {"json": {"json_schema": SCHEMA}, "json_object": {"json_schema": {"type": "object"}}, **LLAMACPPS}
    expected |= {"json": {"json_schema": SCHEMA}, "json_object": {"json_schema": {"type": "object"}}}
    if kind in expected:
        assert spelled(DialectName.LLAMACPP, fields, Operation.COMPLETION) == expected[kind]
    else:
        assert refused(DialectName.LLAMACPP, fields, Operation.COMPLETION) == next(iter(fields))


@pytest.mark.parametrize("name", [DialectName.OPENAI, DialectName.LLAMACPP_PYTHON, DialectName.MLX])
def test_constraint_of_a_completion_is_refused_where_no_api_has_it(name: DialectName) -> None:
    assert refused(name, {"guided_json": SCHEMA}, Operation.COMPLETION) == "guided_json"


@pytest.mark.parametrize(
    ("name", "choice", "sent"),
    [
        (DialectName.OPENAI, NAMED, {"tool_choice": NAMED, "tools": TOOLS}),
        (DialectName.OPENAI, "required", {"tool_choice": "required", "tools": TOOLS}),
        (DialectName.LLAMACPP, NAMED, {"tool_choice": "required", "tools": TOOLS[1:]}),
        (DialectName.LLAMACPP, "required", {"tool_choice": "required", "tools": TOOLS}),
        (DialectName.LLAMACPP_PYTHON, NAMED, {"tool_choice": NAMED, "tools": TOOLS}),
        (DialectName.LLAMACPP_PYTHON, "required", None),
        (DialectName.TRANSFORMERS, NAMED, None),
        (DialectName.TRANSFORMERS, "none", {}),
        (DialectName.TRANSFORMERS, "auto", {"tools": TOOLS}),
        (DialectName.MLX, "required", None),
        (DialectName.MLX, "none", {}),
    ],
)
def test_forced_call_is_spelled_or_refused(name: DialectName, choice: Any, sent: Json | None) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice}
    if sent is None:
        assert refused(name, fields) == "tool_choice"
    else:
        assert spelled(name, fields) == sent


def test_llamacpp_python_forces_an_only_tool_by_its_name() -> None:
    fields = {"tools": TOOLS[1:], "tool_choice": "required"}
    assert spelled(DialectName.LLAMACPP_PYTHON, fields)["tool_choice"] == NAMED


def test_llamacpp_cannot_force_a_tool_that_is_not_there() -> None:
    assert refused(DialectName.LLAMACPP, {"tools": TOOLS[:1], "tool_choice": NAMED}) == "tool_choice"


REFUSED: list[tuple[DialectName, Operation, Json]] = [
    *(
        (DialectName.TRANSFORMERS, Operation.CHAT, {field: value})
        for field, value in (
            ("n", 2),
            ("logprobs", True),
            ("top_logprobs", 1),
            ("top_k", 1),
            ("min_p", 0.1),
            ("presence_penalty", 1.0),
            ("frequency_penalty", 0.5),
            ("stop", ["x"]),
            ("reasoning_effort", "low"),
            ("continue_final_message", True),
        )
    ),
    *(
        (DialectName.TRANSFORMERS, Operation.COMPLETION, {field: value})
        for field, value in (
            ("echo", True),
            ("best_of", 2),
            ("logprobs", 1),
            ("prompt", [1, 2]),
            ("prompt", ["a", "b"]),
            ("prompt", [[1]]),
        )
    ),
    *(
        (DialectName.MLX, Operation.CHAT, {field: value})
        for field, value in (
            ("n", 2),
            ("stop", "x"),
            ("continue_final_message", True),
            ("ignore_eos", True),
        )
    ),
    *((DialectName.MLX, Operation.COMPLETION, {"prompt": prompt}) for prompt in ([1, 2], ["a", "b"], [[1]])),
    *(
        (DialectName.LLAMACPP, Operation.CHAT, {field: value})
        for field, value in (
            ("min_tokens", 2),
            ("stop_token_ids", [1]),
            ("bad_words", ["x"]),
            ("echo", True),
            ("include_stop_str_in_output", True),
        )
    ),
    *(
        (DialectName.LLAMACPP, Operation.COMPLETION, {field: value})
        for field, value in (
            ("echo", True),
            ("suffix", "x"),
            ("best_of", 2),
        )
    ),
    *(
        (DialectName.LLAMACPP_PYTHON, Operation.CHAT, {field: value})
        for field, value in (("n", 2), ("ignore_eos", True))
    ),
    *((DialectName.LLAMACPP_PYTHON, Operation.COMPLETION, {"prompt": prompt}) for prompt in ([1, 2], ["a", "b"])),
]


@pytest.mark.parametrize(("name", "operation", "fields"), REFUSED)
def test_what_a_server_would_ignore_is_refused(name: DialectName, operation: Operation, fields: Json) -> None:
    assert refused(name, fields, operation) == next(iter(fields))


@pytest.mark.parametrize("name", GENERATORS)
def test_what_has_no_effect_is_not_refused(name: DialectName) -> None:
    fields = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "n": None,
        "echo": False,
        "parallel_tool_calls": True,
    }
    assert DIALECTS[name].request(inference_request({"messages": MESSAGES, **fields}), "far").body


@pytest.mark.parametrize("name", [DialectName.TRANSFORMERS, DialectName.MLX, DialectName.LLAMACPP_PYTHON])
def test_image_is_refused_where_nobody_would_look_at_it(name: DialectName) -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}
    assert refused(name, {"messages": [picture]}) == "messages"


@pytest.mark.parametrize("name", [DialectName.TRANSFORMERS, DialectName.MLX, DialectName.LLAMACPP_PYTHON])
def test_one_prompt_in_a_list_is_a_prompt(name: DialectName) -> None:
    assert spelled(name, {"prompt": ["Ho"]}, Operation.COMPLETION) == {"prompt": "Ho"}


def test_transformers_gets_what_it_can_read() -> None:
    assert spelled(DialectName.TRANSFORMERS, {"stream": True, "logit_bias": {"7": 5}}) == {
        "stream": True,
        "logit_bias": {"7": 5.0},
    }
    assert refused(DialectName.TRANSFORMERS, {"max_tokens": 0}) == "max_tokens"


def test_llamacpp_python_gets_what_it_can_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "see", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    sent = spelled(DialectName.LLAMACPP_PYTHON, {"messages": messages})["messages"]
    assert sent == [{"role": "user", "content": "a\nb"}, {"role": "assistant", "tool_calls": [call]}]
    assert refused(DialectName.LLAMACPP_PYTHON, {"max_tokens": 0}) == "max_tokens"


def test_usage_that_a_stream_will_not_have_is_named() -> None:
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    for name, ignored in ((DialectName.LLAMACPP_PYTHON, ("stream_options",)), (DialectName.LLAMACPP, ())):
        assert DIALECTS[name].request(inference_request(body), "far").ignored == ignored


def test_names_of_fields_are_the_servers() -> None:
    assert spelled(DialectName.LLAMACPP, {"repetition_penalty": 1.1, "mirostat": 2}) == {
        "repeat_penalty": 1.1,
        "mirostat": 2,
    }
    developer = {"role": "developer", "content": "Be short."}
    sent = spelled(DialectName.LLAMACPP_PYTHON, {"messages": [developer], "repetition_penalty": 1.1})
    assert sent == {"messages": [{**developer, "role": "system"}], "repeat_penalty": 1.1}


@pytest.mark.parametrize("name", sorted(EMBEDDERS))
def test_embedders_take_texts_only(name: DialectName) -> None:
    sent = DIALECTS[name].request(inference_request({"input": ["a"], "dimensions": 8}, Operation.EMBEDDING), "far")
    assert (sent.path, orjson.loads(sent.body)) == ("/v1/embeddings", {"input": ["a"], "dimensions": 8, "model": "far"})
    for body, operation in (({"input": [1, 2]}, Operation.EMBEDDING), ({"messages": MESSAGES}, Operation.CHAT)):
        with pytest.raises(UnsupportedError):
            DIALECTS[name].request(inference_request(body, operation), "far")


@pytest.mark.parametrize(
    ("name", "path", "documents"),
    [
        (DialectName.TEI, "/rerank", "texts"),
        (DialectName.INFINITY, "/v1/rerank", "documents"),
        (DialectName.LLAMACPP, "/v1/rerank", "documents"),
    ],
)
def test_ranks_and_scores(name: DialectName, path: str, documents: str) -> None:
    rank = inference_request({"query": "q", "documents": ["a", "b"]}, Operation.RERANK)
    score = inference_request({"text_1": ["q"], "text_2": ["a", "b"]}, Operation.SCORE)
    for request in (rank, score):
        sent = DIALECTS[name].request(request, "far")
        body = orjson.loads(sent.body)
        assert (sent.path, body["query"], body[documents]) == (path, "q", ["a", "b"])
    pairs = inference_request({"text_1": ["q", "r"], "text_2": ["a", "b"]}, Operation.SCORE)
    with pytest.raises(UnsupportedError):
        DIALECTS[name].request(pairs, "far")


def answered(fields: Json, *choices: Json, name: DialectName = DialectName.OPENAI) -> EngineResponse | Failure:
    request = inference_request({"messages": MESSAGES, "tools": TOOLS, **fields})
    body = orjson.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})
    return DIALECTS[name].answer(request, "m", 200, body)


def said(text: str, reason: str = "stop", *calls: str) -> Json:
    called = [{"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in calls]
    message = {"role": "assistant", "content": text, **({"tool_calls": called} if called else {})}
    return {"index": 0, "finish_reason": reason, "message": message}


@pytest.mark.parametrize(
    ("choice", "answer", "name", "ok"),
    [
        (NAMED, said("", "tool_calls", "see"), DialectName.OPENAI, True),
        (NAMED, said("", "tool_calls", "see", "see"), DialectName.OPENAI, True),
        (NAMED, said("Fine."), DialectName.OPENAI, False),
        (NAMED, said("", "tool_calls", "look"), DialectName.OPENAI, False),
        ("required", said("", "tool_calls", "look"), DialectName.OPENAI, True),
        ("required", said("Fine."), DialectName.OPENAI, False),
        ("required", said("Fine", "length"), DialectName.OPENAI, False),
        ("required", said("Fine", "length"), DialectName.LLAMACPP, True),
        ("auto", said("Fine."), DialectName.OPENAI, True),
    ],
)
def test_forced_call_must_be_in_the_answer(choice: Any, answer: Json, name: DialectName, ok: bool) -> None:
    found = answered({"tool_choice": choice}, answer, name=name)
    if ok:
        assert isinstance(found, EngineResponse)
    else:
        assert isinstance(found, Failure)
        assert (found.kind, found.param) == (FailureKind.UNSUPPORTED, "tool_choice")


def test_missing_choices_are_named() -> None:
    found = answered({"n": 2}, said("Fine."))
    assert isinstance(found, Failure)
    assert (found.kind, found.param) == (FailureKind.UNSUPPORTED, "n")


def test_llamacpp_answers_about_tokens() -> None:
    dialect = DIALECTS[DialectName.LLAMACPP]
    prompt = inference_request({"prompt": "Hi"}, Operation.TOKENIZE)
    chat = inference_request({"messages": MESSAGES, "temperature": 1}, Operation.TOKENIZE)
    ids = inference_request({"tokens": [7, 8]}, Operation.DETOKENIZE)
    cases: list[tuple[Any, str, Json, Json]] = [
        (prompt, "/tokenize", {"tokens": [7, 8]}, {"count": 2, "tokens": [7, 8], "max_model_len": None}),
        (
            chat,
            "/v1/chat/completions/input_tokens",
            {"input_tokens": 9},
            {"count": 9, "tokens": None, "max_model_len": None},
        ),
        (ids, "/detokenize", {"content": "Hi"}, {"prompt": "Hi"}),
    ]
    for request, path, theirs, ours in cases:
        assert dialect.request(request, "far").path == path
        answer = dialect.answer(request, "m", 200, orjson.dumps(theirs))
        assert isinstance(answer, EngineResponse)
        assert orjson.loads(answer.body) == ours
    for broken in (b"{}", b"[]", b"<html>", b'{"tokens": 3}'):
        assert isinstance(dialect.answer(prompt, "m", 200, broken), Failure)


def test_llamacpp_lists_the_texts_of_tokens() -> None:
    dialect = DIALECTS[DialectName.LLAMACPP]
    request = inference_request({"prompt": "é", "return_token_strs": True}, Operation.TOKENIZE)
    assert orjson.loads(dialect.request(request, "far").body)["with_pieces"] is True
    answer = dialect.answer(request, "m", 200, b'{"tokens":[{"id":1,"piece":[195]},{"id":2,"piece":"a"}]}')
    assert isinstance(answer, EngineResponse)
    assert orjson.loads(answer.body)["token_strs"] == ["\ufffd", "a"]
    with pytest.raises(UnsupportedError):
        dialect.request(inference_request({"messages": MESSAGES, "return_token_ids": True}, Operation.TOKENIZE), "far")


def test_log_probabilities_of_llamacpps_completions_are_lists() -> None:
    token = {"token": "ab", "logprob": -0.5, "top_logprobs": [{"token": "ab", "logprob": -0.5}]}
    choice = {"index": 0, "text": "abab", "finish_reason": "stop", "logprobs": {"content": [token, token]}}
    body = orjson.dumps({"id": "x", "object": "text_completion", "model": "m", "choices": [choice]})
    request = inference_request({"prompt": "Hi", "logprobs": 1}, Operation.COMPLETION)
    answer = DIALECTS[DialectName.LLAMACPP].answer(request, "m", 200, body)
    assert isinstance(answer, EngineResponse)
    assert orjson.loads(answer.body)["choices"][0]["logprobs"] == {
        "tokens": ["ab", "ab"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"ab": -0.5}, {"ab": -0.5}],
        "text_offset": [0, 2],
    }
    plain = orjson.dumps({"id": "x", "model": "m", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
    request = inference_request({"prompt": "Hi"}, Operation.COMPLETION)
    answer = DIALECTS[DialectName.LLAMACPP].answer(request, "m", 200, plain)
    assert isinstance(answer, EngineResponse)
    assert answer.body == plain
