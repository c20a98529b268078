"""LoRA adapters on command lines, and in requests: each engine has its own way to name one."""

from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from berth.canonical import Json, Operation
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.sglang import SglangDialect
from berth.dialects.vllm import VllmDialect
from berth.engines.lora import rank
from berth.engines.sglang import SglangEngine
from berth.engines.sim import SimEngine
from berth.engines.vllm import VllmEngine
from berth.plan import Adapter
from tests.fakes.orders import launch_order
from tests.fakes.recordings import inference_request

BODIES: dict[Operation, Json] = {
    Operation.CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    Operation.COMPLETION: {"prompt": "Hello"},
    Operation.EMBEDDING: {"input": "Hello"},
}
TONE, LAW = Adapter(name="org/tone:v1", source="me/tone", rank=9), Adapter(name="law", source="/data/law,=x", rank=32)


def sent(dialect: Dialect, operation: Operation, adapter: str = "org/tone:v1") -> Json:
    body = {"model": "org/tone:v1", **BODIES[operation]}
    request = replace(inference_request(body, operation), adapter=adapter)
    document: Json = orjson.loads(dialect.request(request, "qwen3:8b").body)
    return document


def after(argv: tuple[str, ...], option: str, count: int = 1) -> list[str]:
    begin = argv.index(option) + 1
    return list(argv[begin : begin + count])


@pytest.mark.parametrize("operation", BODIES)
def test_vllm_requests_an_adapter_as_a_model(operation: Operation) -> None:
    assert sent(VllmDialect(), operation)["model"] == "org/tone:v1"
    assert sent(VllmDialect(), operation, adapter="")["model"] == "qwen3:8b"


@pytest.mark.parametrize("operation", BODIES)
def test_sglang_requests_an_adapter_next_to_the_model(operation: Operation) -> None:
    body = sent(SglangDialect(), operation)
    assert (body["model"], body["lora_path"]) == ("qwen3-8b", "org/tone:v1")
    assert "lora_path" not in sent(SglangDialect(), operation, adapter="")


def test_sglang_rejects_unsupported_requests_with_an_adapter() -> None:
    request = replace(inference_request({"query": "a", "documents": ["b"]}, Operation.RERANK), adapter="tone")
    with pytest.raises(UnsupportedError, match="SGLang cannot rerank with a LoRA adapter"):
        SglangDialect().request(request, "m")


def test_vllm_allocates_for_the_largest_rank() -> None:
    argv = VllmEngine().launch(launch_order(adapters=(TONE, LAW), extra_args=("--max-loras", "1"))).argv

    assert "--enable-lora" in argv
    assert after(argv, "--max-lora-rank") == ["32"]
    assert after(argv, "--max-loras") == ["2"]
    modules = [orjson.loads(word) for word in after(argv, "--lora-modules", 2)]
    assert modules == [{"name": "org/tone:v1", "path": "me/tone"}, {"name": "law", "path": "/data/law,=x"}]
    assert argv[argv.index("--lora-modules") + 3].startswith("--")
    assert argv[-2:] == ("--max-loras", "1")


def test_sglang_keeps_a_slot_for_requests_without_an_adapter() -> None:
    argv = SglangEngine().launch(launch_order(adapters=(TONE, LAW))).argv

    assert after(argv, "--max-loras-per-batch") == ["3"]
    paths: list[Any] = [orjson.loads(word) for word in after(argv, "--lora-paths", 2)]
    assert paths[0] == {"lora_name": "org/tone:v1", "lora_path": "me/tone"}
    assert "--lora-backend" not in argv
    assert after(SglangEngine().launch(launch_order(gpus=0, adapters=(LAW,))).argv, "--lora-backend") == [
        "torch_native"
    ]


def test_simulated_engine_gets_the_adapter_names() -> None:
    argv = SimEngine().launch(launch_order(gpus=0, adapters=(TONE, LAW))).argv

    assert after(argv, "--adapters", 2) == ["org/tone:v1", "law"]


@pytest.mark.parametrize("engine", [VllmEngine(), SglangEngine(), SimEngine()])
def test_no_options_without_adapters(engine: VllmEngine | SglangEngine | SimEngine) -> None:
    assert not any("lora" in word or "adapter" in word for word in engine.launch(launch_order()).argv)


@pytest.mark.parametrize(("largest", "expected"), [(1, 1), (2, 8), (65, 128), (512, 512), (None, 64)])
def test_rounds_ranks_up_to_those_of_vllm(largest: int | None, expected: int) -> None:
    assert rank([Adapter(name="a", source="x", rank=largest), Adapter(name="b", source="x", rank=1)]) == expected


def test_room_for_adapters_that_are_added_later() -> None:
    room = launch_order(adapter_slots=3, adapter_rank=16)
    vllm = VllmEngine().launch(room)
    assert after(vllm.argv, "--max-lora-rank") + after(vllm.argv, "--max-loras") == ["16", "3"]
    assert after(vllm.argv, "--max-cpu-loras") == ["3"]
    assert "--lora-modules" not in vllm.argv
    assert vllm.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    sglang = SglangEngine().launch(room).argv
    assert after(sglang, "--max-loras-per-batch") + after(sglang, "--max-loaded-loras") == ["4", "4"]
    assert after(sglang, "--max-lora-rank") + after(sglang, "--lora-target-modules") == ["16", "all"]
    assert "--lora-paths" not in sglang
    assert after(SimEngine().launch(room).argv, "--adapter-slots") == ["3"]

    both = launch_order(adapters=(LAW,), adapter_slots=1, adapter_rank=8)
    assert after(VllmEngine().launch(both).argv, "--max-lora-rank") == ["32"]
    assert "--lora-modules" in VllmEngine().launch(both).argv
    closed = VllmEngine().launch(launch_order(adapters=(LAW,)))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in closed.env
