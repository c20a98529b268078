import orjson
import pytest

from berth.canonical import Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.sglang import SglangDialect
from tests.fakes.recordings import inference_request

CHAT: Json = {"model": "alias", "messages": [{"role": "user", "content": "Hello"}]}


def sent(body: Json, served_name: str = "tiny") -> Json:
    document: Json = orjson.loads(SglangDialect().request(inference_request(body), served_name).body)
    return document


def test_name_with_a_colon_has_a_dash() -> None:
    assert sent(CHAT, "qwen3:8b")["model"] == "qwen3-8b"


SCHEMA: Json = {"type": "object"}
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
REQUESTS: dict[str, tuple[Json, Json]] = {
    "guided_json": ({"guided_json": SCHEMA}, {"response_format": JSON_FORMAT}),
    "a schema as text": ({"guided_json": '{"type":"object"}'}, {"response_format": JSON_FORMAT}),
    "vLLM's spelling": ({"structured_outputs": {"json": SCHEMA}}, {"response_format": JSON_FORMAT}),
    "any JSON": ({"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}),
    "regex": ({"guided_regex": "a+"}, {"regex": "a+"}),
    "its own regex": ({"regex": "a+"}, {"regex": "a+"}),
    "choice": ({"guided_choice": ["a.b", "c d"]}, {"regex": r"(a\.b|c d)"}),
    "grammar": ({"structured_outputs": {"grammar": "root ::= 'a'"}}, {"ebnf": "root ::= 'a'"}),
    "stop strings kept": ({"include_stop_str_in_output": True}, {"no_stop_trim": True}),
    "OpenAI's own stays": ({"response_format": JSON_FORMAT}, {"response_format": JSON_FORMAT}),
    "nothing but the name": ({}, {"model": "tiny"}),
}


@pytest.mark.parametrize(("given", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_spells_requests_for_sglang(given: Json, expected: Json) -> None:
    body = sent({**CHAT, **given})

    assert {name: body[name] for name in expected} == expected
    assert not {"guided_json", "guided_choice", "guided_regex", "structured_outputs"} & body.keys()


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_reasoning_has_sglangs_field_name(name: str) -> None:
    body = sent({"model": "a", "messages": [{"role": "assistant", "content": "Hello", name: "Greet."}]})

    assert body["messages"] == [{"role": "assistant", "content": "Hello", "reasoning_content": "Greet."}]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"bad_words": ["x"]}, "bad_words"),
        ({"suffix": "}"}, "suffix"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": " "}}, "structured_outputs"),
    ],
)
def test_rejects_what_sglang_would_ignore(given: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        sent({**CHAT, **given})

    assert rejected.value.param == param


def test_accepts_fields_without_a_value() -> None:
    assert "bad_words" not in sent({**CHAT, "bad_words": [], "suffix": None})


def test_embedding_request_passes_unchanged() -> None:
    request = SglangDialect().request(inference_request({"model": "a", "input": "x"}, Operation.EMBEDDING), "tiny")

    assert orjson.loads(request.body) == {"model": "tiny", "input": "x"}
    assert request.path == "/v1/embeddings"
