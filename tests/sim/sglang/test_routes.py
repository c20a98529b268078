from typing import Any

import pytest

from tests.sim.harness import CHAT, get, running, send_request


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("/v1/loads", "version", "0.5.23"),
        ("/model_info", "served_model_name", "sim"),
        ("/get_model_info", "is_generation", True),
        ("/v1/models/sim", "max_model_len", 8192),
    ],
)
def test_pages_report_the_engines_state(path: str, key: str, value: Any) -> None:
    with running("sglang") as server:
        assert get(server.port, path).json[key] == value


def test_loads_count_running_requests() -> None:
    with running("sglang", max_running=9) as server:
        load = get(server.port, "/v1/loads").json["loads"][0]
    assert (load["num_running_reqs"], load["num_waiting_reqs"], load["max_running_requests"]) == (0, 0, 9)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
@pytest.mark.parametrize("body", [{"prompt": "The night"}, {"messages": CHAT["messages"]}])
def test_tokenizes_and_detokenizes(path: str, body: Any) -> None:
    with running("sglang") as server:
        told = send_request(server.port, path, body).json
        back = send_request(server.port, "/v1/detokenize", {"tokens": told["tokens"]}).json
    assert list(told) == ["tokens", "count", "max_model_len"]
    assert back == {"text": body.get("prompt", "user\nHello\nassistant\n")}


def test_validation_errors_leak_a_path_as_the_engine_does() -> None:
    with running("sglang") as server:
        error = send_request(server.port, body={**CHAT, "max_tokens": "a lot"}).json
    assert (error["type"], error["code"]) == ("Bad Request", 400)
    assert 'http_server.py", line 1870, in openai_v1_chat_completions' in error["message"]
