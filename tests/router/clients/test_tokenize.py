"""Tokens are counted over real sockets, on the simulated engines of every dialect, as a request of the same prompt
would be counted by the engine itself.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from berth.plan import DialectName, Task
from tests.fakes.router import RouterProcess
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.sims import GENERATING, box_of, model_name
from tests.fakes.upstream import HANG

HELLO = [{"role": "user", "content": "Hello, how many am I?"}]
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
TELLING = (DialectName.VLLM, DialectName.SGLANG)


@pytest.fixture(scope="module")
def box() -> Iterator[RouterProcess]:
    with box_of(Task.GENERATE, Task.EMBED) as box:
        yield box


def post(box: RouterProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{box.url}{path}", json=body, headers=headers, trust_env=False, timeout=20)


@pytest.mark.parametrize("model", GENERATING)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL]},
        {"system": "Be brief.", "tools": [{"name": "get_time", "input_schema": {"type": "object"}}]},
    ],
    ids=["plain", "tools", "anthropic"],
)
def test_count_equals_the_usage_of_the_same_request(box: RouterProcess, model: str, fields: dict[str, Any]) -> None:
    if "system" in fields:
        count = post(box, "/v1/messages/count_tokens", {"model": model, "messages": HELLO, **fields})
        answer = post(box, "/v1/messages", {"model": model, "messages": HELLO, "max_tokens": 2, **fields})
        assert count.json() == {"input_tokens": answer.json()["usage"]["input_tokens"]}
        return
    count = post(box, "/v1/responses/input_tokens", {"model": model, "input": HELLO})
    answer = post(box, "/v1/chat/completions", {"model": model, "messages": HELLO, "max_tokens": 2, **fields})
    assert count.json()["input_tokens"] == answer.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize("model", TELLING)
@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_tokenize_and_detokenize(box: RouterProcess, model: str, path: str) -> None:
    told = post(box, path, {"model": model, "prompt": "The night train"}).json()
    back = post(box, path.replace("/token", "/detoken"), {"model": model, "tokens": told["tokens"]})

    assert told["count"] == len(told["tokens"]) > 2
    assert set(told) == {"count", "tokens", "max_model_len", "token_strs"}
    assert back.json() == {"prompt": "The night train"}


@pytest.mark.parametrize("model", TELLING)
def test_chat_is_tokenized_with_its_template(box: RouterProcess, model: str) -> None:
    told = post(box, "/tokenize", {"model": model, "messages": HELLO, "tools": [TOOL]}).json()
    usage = post(box, "/v1/chat/completions", {"model": model, "messages": HELLO, "max_tokens": 1}).json()["usage"]

    assert told["count"] == usage["prompt_tokens"]


def test_embedding_model_tokenizes(box: RouterProcess) -> None:
    model = model_name(Task.EMBED, DialectName.VLLM)

    assert post(box, "/tokenize", {"model": model, "prompt": "Hello"}).json()["count"] == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"model": "trtllm", "prompt": "x"}, "return_token_ids"),
        ("/detokenize", {"model": "trtllm", "tokens": [1]}, "tokens"),
        ("/tokenize", {"model": "sglang", "prompt": "x", "return_token_strs": True}, "return_token_strs"),
        ("/detokenize", {"model": "sglang", "tokens": [40000]}, "tokens"),
        ("/tokenize", {"prompt": "x"}, "model"),
    ],
)
def test_rejects_unsupported_fields(box: RouterProcess, path: str, body: Any, param: str) -> None:
    answer = post(box, path, body)

    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param


def test_tgi_tokens_have_offsets(box: RouterProcess) -> None:
    tokens = post(box, "/tokenize", {"inputs": "The night"}, **{"x-berth-model": "vllm"}).json()

    assert [(one["text"], one["start"], one["stop"]) for one in tokens] == [("The", 0, 3), (" night", 3, 9)]
    assert all(isinstance(one["id"], int) for one in tokens)


@pytest.mark.slow
def test_hanging_engine_times_out_after_the_first_token_limit(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(HANG)
    begun = time.monotonic()
    answer = httpx.post(
        f"{router_fixture.url}/tokenize", json={"model": "solo", "prompt": "x"}, trust_env=False, timeout=20
    )

    assert answer.status_code == 502
    assert time.monotonic() - begun < 10
