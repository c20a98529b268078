from tests.sim.harness import CHAT, Client, get, running, send_request


def test_reading_metrics_clears_them() -> None:
    with running("trtllm") as server:
        assert get(server.port, "/metrics").json == []
        send_request(server.port, body={**CHAT, "max_tokens": 5})
        first, second = (get(server.port, "/metrics").json for _ in range(2))
    assert ([entry["iter"] for entry in first], second) == ([5], [])


def test_lists_the_only_model() -> None:
    with running("trtllm", names=("m",)) as server:
        (model,) = get(server.port, "/v1/models").json["data"]
    assert (model["id"], model["owned_by"], "max_model_len" in model) == ("m", "tensorrt_llm", False)


def test_rejects_other_media_types() -> None:
    with running("trtllm") as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", CHAT, {"content-type": "text/plain"})
        reply = client.read()
    assert (reply.status, reply.json["type"]) == (400, "BadRequestError")
