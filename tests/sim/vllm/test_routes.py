from typing import Any

import pytest

from tests.sim.harness import CHAT, get, running, send_request


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"prompt": "The night"}, {"count": 2, "max_model_len": 64, "token_strs": None}),
        ({"prompt": "The night", "return_token_strs": True}, {"count": 2, "token_strs": ["The", " night"]}),
        ({"messages": CHAT["messages"], "model": "sim"}, {"max_model_len": 64}),
    ],
)
def test_tokenizes_text(body: Any, answer: dict[str, Any]) -> None:
    with running(context=64) as server:
        told = send_request(server.port, "/tokenize", body).json
        back = send_request(server.port, "/detokenize", {"tokens": told["tokens"]}).json["prompt"]
    assert answer.items() <= told.items()
    assert back == body.get("prompt", "user\nHello\nassistant\n")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"prompt": "x", "model": "nope"}, 404),
        ("/tokenize", b"{", 400),
        ("/detokenize", {"tokens": [99999]}, 400),
        ("/detokenize", {}, 400),
    ],
)
def test_rejects_invalid_tokenize_requests(path: str, body: Any, status: int) -> None:
    with running() as server:
        reply = send_request(server.port, path, body)
    assert (reply.status, reply.json["error"]["code"]) == (status, status)


def test_lists_every_served_name_and_responds_with_the_first() -> None:
    with running(names=("one", "two"), context=77) as server:
        models = get(server.port, "/v1/models").json["data"]
        answer = send_request(server.port, body={**CHAT, "model": "two", "max_tokens": 1}).json
    assert [(model["id"], model["max_model_len"]) for model in models] == [("one", 77), ("two", 77)]
    assert answer["model"] == "one"


def test_embedding_server_has_no_chat() -> None:
    with running(task="embed") as server:
        assert send_request(server.port, body=CHAT).status == 404
        answers = [
            send_request(server.port, "/v1/embeddings", {"input": text}).json for text in ("Hello", "Hello", "you")
        ]
    vectors = [answer["data"][0]["embedding"] for answer in answers]
    assert (vectors[0] == vectors[1], vectors[0] == vectors[2], len(vectors[0])) == (True, False, 256)
