"""LoRA adapters of the simulated engine, named as each dialect's engine wants it."""

import pytest

from berth.sim.options import parse_options
from tests.sim.harness import CHAT, get, running, send_request

NAMES = ("law", "org/tone:v1")


def test_vllm_serves_adapters_as_models() -> None:
    with running("vllm", adapters=NAMES) as server:
        answers = [send_request(server.port, body={**CHAT, "model": name}) for name in ("law", "sim", "tone")]
        cards = get(server.port, "/v1/models").json["data"]

    assert [answer.status for answer in answers] == [200, 200, 404]
    assert [answer.json["model"] for answer in answers[:2]] == ["law", "sim"]
    assert [(card["id"], card["parent"]) for card in cards] == [("sim", None), ("law", "sim"), ("org/tone:v1", "sim")]


def test_sglang_selects_adapters_by_path() -> None:
    with running("sglang", adapters=NAMES) as server:
        good = [{"lora_path": "org/tone:v1"}, {"model": "sim:law"}, {}]
        assert [send_request(server.port, body={**CHAT, **fields}).status for fields in good] == [200, 200, 200]
        wrong = send_request(server.port, body={**CHAT, "lora_path": "tone"})
        cards = get(server.port, "/v1/models").json["data"]

    assert wrong.status == 400
    assert "The following requested LoRA adapters are not loaded: tone" in wrong.json["message"]
    assert [card["id"] for card in cards] == ["sim", *NAMES]


def test_sglang_rejects_adapters_without_lora() -> None:
    with running("sglang") as server:
        answer = send_request(server.port, body={**CHAT, "lora_path": "law"})

    assert "LoRA adapter 'law' was requested, but LoRA is not enabled" in answer.json["message"]


def test_tensorrt_llm_rejects_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--dialect", "trtllm", "--adapters", "law"])

    assert "TensorRT-LLM does not name adapters" in capsys.readouterr().err


def test_vllm_loads_and_unloads_adapters_by_calls() -> None:
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    with running("vllm", adapters=[], adapter_slots=1) as server:
        given = {"lora_name": "law", "lora_path": "/law"}
        asked = [send_request(server.port, path, body) for path, body in ((load, given), (load, given), (load, {}))]
        assert [one.status for one in asked] == [200, 400, 400]
        assert send_request(server.port, body={**CHAT, "model": "law"}).status == 200
        asked = [send_request(server.port, unload, {"lora_name": "law"}) for _ in range(2)]
        assert [one.status for one in asked] == [200, 404]
        assert send_request(server.port, body={**CHAT, "model": "law"}).status == 404
    with running("vllm") as server:
        assert send_request(server.port, load, {"lora_name": "law", "lora_path": "/law"}).status == 404


def test_sglang_says_what_is_loaded() -> None:
    with running("sglang", adapters=["tone"], adapter_slots=1) as server:
        good = send_request(server.port, "/load_lora_adapter", {"lora_name": "law", "lora_path": "/law"})
        wrong = send_request(server.port, "/unload_lora_adapter", {"lora_name": "none"})
    assert (good.status, good.json["success"], list(good.json["loaded_adapters"])) == (200, True, ["tone", "law"])
    assert (wrong.status, wrong.json["success"], wrong.json["error_message"]) == (
        400,
        False,
        "The lora adapter 'none' cannot be found.",
    )
