"""The text that an operator gets when models do not fit: sums, and changes that were tried."""

from dataclasses import replace
from typing import Any

import pytest

from berth.boot.planner.fit.gpu_request import GpuRequest
from berth.boot.planner.fit.memory import CacheOptions
from berth.boot.planner.fit.placement import place
from berth.boot.planner.fit.report import Changes, cpu_report, gpu_report
from berth.host.gpus import Occupant
from berth.plan import Gpu
from tests.fakes.machine import GIB, LLAMA_70B, QWEN_8B, TINY, FakeEngine, gpu, gpus


def request(**fields: Any) -> GpuRequest:
    return GpuRequest(**{"name": "chat", "info": QWEN_8B, "engines": (FakeEngine(),), **fields})


def test_shows_the_sums_per_gpu_and_model() -> None:
    text = gpu_report([request(), request(name="big", info=LLAMA_70B)], (gpu(0, free_gib=79), gpu(1, mig=True)), 0.9)

    assert text.splitlines()[0] == "The models do not fit on the GPUs."
    assert "GPU 0 NVIDIA Fake 80GB: total 80.0 GiB, free 79.0 GiB, may be used 72.0 GiB, reserved 18.6 GiB by" in text
    assert "GPU 1 NVIDIA Fake 80GB: MIG is on, without an instance" in text
    assert "chat (Qwen/Qwen3-8B) fits: on 1 GPU 18.5 GiB each = weights 15.3 GiB + KV cache 291 MiB" in text
    assert "big (meta-llama/Llama-3.3-70B-Instruct) DOES NOT FIT: on 1 GPU 135.0 GiB each" in text
    assert "for 2048 tokens + overhead 3.0 GiB" in text
    assert text.splitlines()[-4:] == [
        "What would fit:",
        "  - 3 GPUs like NVIDIA Fake 80GB (80.0 GiB)",
        "  - without big",
        "  - a smaller or quantised model (FP8 halves the weights, 4 bits quarter them)",
    ]


@pytest.mark.parametrize(
    ("requests", "machine", "expected"),
    [
        ([request(context=40960)], gpus(1, total_gib=24), ["chat: context: 24064"]),
        ([request(context=131072)], gpus(1, total_gib=20.5), ["chat: context: 1024"]),
        ([request(context=8192, gpus=1)], gpus(2, total_gib=21), ["chat: context: 4608", "chat: gpus: 2"]),
        ([request(gpus=2)], gpus(1), ["chat: gpus: 1"]),
        ([request(kv_cache_bytes=70 * GIB)], gpus(1), ["chat: without `kv_cache`, which Berth then chooses"]),
        ([request(info=replace(QWEN_8B, max_position=512))], gpus(1, total_gib=20), ["BERTH_GPU_MEMORY_FRACTION=0.92"]),
        (
            [request(info=LLAMA_70B, gpus=(0, 1))],
            (gpu(0, free_gib=20), gpu(1)),
            ["ending the other processes that hold 60.0 GiB on GPU 0 (see nvidia-smi)"],
        ),
    ],
)
def test_names_small_changes_that_would_fit(
    requests: list[GpuRequest], machine: tuple[Gpu, ...], expected: list[str]
) -> None:
    assert Changes(requests=requests, gpus=machine, fraction=0.9).all()[: len(expected)] == expected


OSS_120B = replace(QWEN_8B, source="openai/gpt-oss-120b", weights_bytes=65_248_893_184, quantization="mxfp4")


def test_a_smaller_batch_makes_room_for_mxfp4_on_a_large_card() -> None:
    """With its default batches vLLM does not start gpt-oss-120b on an H100."""
    cards, asked = gpus(1, total_gib=79.65), request(info=OSS_120B, cache=(CacheOptions(),))

    assert place([asked], cards, 0.9) is None
    changes = Changes(requests=[asked], gpus=cards, fraction=0.9).all()
    assert changes[:2] == ["chat: vllm: {args: [--max-num-batched-tokens=2048]}", "BERTH_GPU_MEMORY_FRACTION=0.94"]
    assert "overhead 7.8 GiB" in gpu_report([asked], cards, 0.9)
    stated = replace(asked, cache=(CacheOptions(batch_tokens=2048),))
    assert place([stated], cards, 0.9) is not None


def test_lists_the_processes_on_a_gpu() -> None:
    busy = (Occupant(pid=7, name="python", used_bytes=50 * GIB),)

    lines = gpu_report([request(info=LLAMA_70B)], (gpu(0, free_gib=20), gpu(1, free_gib=79.5)), 0.9, {0: busy})

    assert lines.splitlines()[2] == "    in use 60.0 GiB of 80.0 GiB: python (pid 7, 50.0 GiB)"
    assert "in use" not in lines.splitlines()[3]
    unseen = gpu_report([request(info=LLAMA_70B)], (gpu(0, free_gib=20),), 0.9)
    assert "processes that this container does not see: run nvidia-smi on the host" in unseen


def test_counts_missing_gpus() -> None:
    wanted = request(info=LLAMA_70B, gpus=8, context=131072)

    assert Changes(requests=[wanted], gpus=gpus(1), fraction=0.9).all()[0] == "4 GPUs like NVIDIA Fake 80GB (80.0 GiB)"


@pytest.mark.parametrize("machine", [(), (gpu(mig=True),), gpus(1, total_gib=1)])
def test_advises_a_smaller_model_when_nothing_else_fits(machine: tuple[Gpu, ...]) -> None:
    assert Changes(requests=[request()], gpus=machine, fraction=0.9).all() == [
        "a smaller or quantised model (FP8 halves the weights, 4 bits quarter them)"
    ]


def test_reports_heads_that_cannot_be_divided() -> None:
    assert "its 32 heads cannot be divided among 3 GPUs" in gpu_report([request(gpus=3)], gpus(1), 0.9)


def test_shows_the_sum_for_the_cpu() -> None:
    text = cpu_report([request(), request(name="small", info=TINY)], 8 * GIB)

    assert "8.0 GiB are available" in text
    assert "chat (Qwen/Qwen3-8B): 15.5 GiB, of these 15.3 GiB weights" in text
    assert "small (/models/tiny)" in text


def test_suggests_one_kind_of_change_at_a_time() -> None:
    small = Changes(requests=[request(context=40960)], gpus=gpus(1, total_gib=24), fraction=0.9)
    busy = Changes(requests=[request(info=LLAMA_70B, gpus=(0, 1))], gpus=(gpu(0, free_gib=20), gpu(1)), fraction=0.9)
    two = Changes(requests=[request(), request(name="big", info=LLAMA_70B)], gpus=gpus(1), fraction=0.9)

    assert small.smaller_contexts() == ["chat: context: 24064"]
    assert small.smaller_caches() == small.other_counts() == small.freed_memory() == small.fewer_models() == []
    assert busy.freed_memory() == ["ending the other processes that hold 60.0 GiB on GPU 0 (see nvidia-smi)"]
    assert busy.higher_fraction() == []
    assert two.more_gpus() == ["3 GPUs like NVIDIA Fake 80GB (80.0 GiB)"]
    assert two.fewer_models() == ["without big"]
