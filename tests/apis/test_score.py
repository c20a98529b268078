from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.apis.score import CLASSIFY, SCORE, Classify, Score
from berth.canonical import Json
from berth.errors import InvalidRequestError

JSON = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=3)


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_accepts_all_names_of_the_two_texts(names: tuple[str, str]) -> None:
    ask = {"model": "m", names[0]: "q", names[1]: ["a", "b"], "user": "me", "truncate_prompt_tokens": 5}
    request = Score().parse(orjson.dumps(ask))

    assert request.body == {"model": "m", "text_1": "q", "text_2": ["a", "b"], "truncate_prompt_tokens": 5}
    assert request.ignored == ("user",)


def test_score_response_is_vllms() -> None:
    request = Score().parse(b'{"model":"m","text_1":"q","text_2":"a","use_activation":false}')
    canonical = {"data": [{"index": 0, "score": 0.5}], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    answer = orjson.loads(Score().response(request, orjson.dumps(canonical)))

    assert request.body["use_activation"] is False
    assert (answer["object"], answer["model"], answer["id"][:6]) == ("list", "m", "score-")
    assert answer["data"] == [{"index": 0, "object": "score", "score": 0.5}]
    assert answer["usage"]["total_tokens"] == 2


def test_classify_response_is_vllms() -> None:
    request = Classify().parse(b'{"model":"m","input":"a"}')
    canonical = {"data": [{"index": 0, "label": "A", "probs": [0.75, 0.25]}], "usage": {"prompt_tokens": 2}}
    answer = orjson.loads(Classify().response(request, orjson.dumps(canonical)))

    assert request.body == {"model": "m", "input": "a"}
    assert answer["data"] == [{"index": 0, "label": "A", "probs": [0.75, 0.25], "num_classes": 2}]
    assert answer["id"].startswith("classify-")


@pytest.mark.parametrize(
    ("api", "fields", "param"),
    [
        (Score(), {"text_1": "a"}, "text_2"),
        (Score(), {"text_2": "a"}, "text_1"),
        (Score(), {"text_1": [], "text_2": "a"}, "text_1"),
        (Score(), {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        (Score(), {"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
        (Score(), {"queries": 7, "documents": "c"}, "queries"),
        (Score(), {"text_1": "a", "text_2": "b", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        (Classify(), {}, "input"),
        (Classify(), {"input": [1, 2]}, "input"),
        (Classify(), {"input": []}, "input"),
    ],
)
def test_rejects_invalid_request_and_names_the_field(api: Score | Classify, fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        api.parse(orjson.dumps({"model": "m", **fields}))

    assert refused.value.param == param


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*SCORE, *CLASSIFY]), JSON, max_size=5))
def test_any_document_is_rejected_or_becomes_texts(fields: dict[str, Any]) -> None:
    for api, names in ((Score(), ("text_1", "text_2")), (Classify(), ("input",))):
        try:
            request = api.parse(orjson.dumps(fields))
        except InvalidRequestError:
            continue
        assert all(
            request.body[name] and isinstance(request.body[name], str | list)
            for name in names
            if request.body[name] != ""
        )
