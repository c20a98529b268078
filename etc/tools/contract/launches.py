"""Every kind of launch that Berth can write for an engine: the product of what a launch order may hold."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from berth.engines.base import Drafter, KvDtype, LaunchOrder, ModelFacts, ModelOptions, Speculation
from berth.engines.lora import spare
from berth.engines.registry import ENGINES
from berth.plan import Adapter, EngineName, Gpu, Launch, MemoryEstimate, Ranks, Task
from etc.tools.contract.targets import Target

GIB = 1 << 30
HERMES = "{% if tools %}<tool_call>{'name': ..., 'arguments': ...}</tool_call>{% endif %}"
# Model type and chat template: one of each family that the tables of parsers know.
TEMPLATES: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("llama", HERMES),
    ("qwen3", HERMES + "<think>"),
    ("qwen3_moe", "<tool_call><function=name>"),
    ("mistral", "[TOOL_CALLS][THINK]"),
    ("llama", "<|python_tag|>"),
    ("gpt_oss", ""),
    ("deepseek_v3", "<｜tool▁call▁begin｜>```json<｜Assistant｜></think>"),  # noqa: RUF001 - as the models spell it
    ("kimi_k2", "<|tool_calls_section_begin|><think>"),
    ("glm4_moe", "<arg_key><think>"),
)
CONTEXTS = (None, 131072)
FETCH_HOSTS = (None, (), ("images.example.org", "10.0.0.5"))
SHARES = (None, 0.01, 0.45, 1.0)  # alone, beside others; the extremes are clamped
DTYPES = (None, "bfloat16", "float16", "float32")
# As a user may add them; each engine has its own, and they come last.
EXTRAS: dict[EngineName, tuple[tuple[str, ...], ...]] = {
    EngineName.VLLM: ((), ("--enable-prefix-caching", "--max-num-seqs", "64")),
    EngineName.SGLANG: (
        (),
        ("--schedule-policy", "lpm"),
        ("--config", "/data/mine.yaml"),
        ("--tokenizer-worker-num=4",),
    ),
    EngineName.TRTLLM: ((), ("--max_batch_size", "64")),
}
ADAPTERS = (
    Adapter(name="support", source="owner/support-lora", rank=16),
    Adapter(name="org/tone:v1", source="/data/lora,=tone", rank=100),
)
DRAFTERS: tuple[Speculation | None, ...] = (
    None,
    *(
        Speculation(drafter=drafter, tokens=3, source="" if drafter in ("ngram", "mtp") else "owner/draft")
        for drafter in Drafter
    ),
)
RANKS = tuple(
    Ranks(nodes=2, rank=0, head="10.0.0.1", own="10.0.0.1", port=29501, interface="ib0", url="", ray=ray)
    for ray in (False, True)
)
OPTIONS = tuple(
    ModelOptions(
        speculation=speculation,
        kv_dtype=kv_dtype,
        checkpoint_kv_dtype="fp8",
        text_only=on,
        prefix_cache=prefix_cache,
        kv_offload_bytes=32 * GIB * on,
    )
    for speculation, kv_dtype, (on, prefix_cache) in itertools.product(
        DRAFTERS, KvDtype, ((False, None), (True, True), (False, False))
    )
)


def launches(target: Target) -> Iterator[tuple[LaunchOrder, Launch]]:
    """Only what the engine can do: TensorRT-LLM makes no embeddings. Rerankers and classifiers start as these do."""
    tasks = [Task.GENERATE] if target.engine is EngineName.TRTLLM else [Task.GENERATE, Task.EMBED]
    engine = ENGINES[target.engine]
    sockets = ("/run/berth/chat-engine.sock", "") if engine.takes_socket else ("",)
    asleep = (False, True) if engine.sleep else (False,)
    if target.engine is not EngineName.TRTLLM:
        yield from _on_several_boxes(target)
    for gpus, task, offline in itertools.product(target.gpus, tasks, (False, True)):
        for order, sleeps in itertools.product(_orders(target, gpus, task, offline=offline), asleep):
            told = replace(order, sleeps=sleeps, socket=sockets[offline % len(sockets)])
            if offline:
                told = replace(told, traces_endpoint="http://collector:4318/v1/traces")
            yield told, engine.launch(told)
        if target.engine is not EngineName.TRTLLM:
            order = next(_orders(target, gpus, task, offline=offline))
            told = replace(order, adapters=ADAPTERS[: 1 + offline], spare_adapters=spare(2 * offline, 16))
            yield told, engine.launch(told)
        for options in OPTIONS if gpus in (target.gpus[0], 4) and task is Task.GENERATE and not offline else ():
            told = replace(next(_orders(target, gpus, task, offline=offline)), options=options)
            yield told, engine.launch(told)
        if gpus == 1:
            told = replace(next(_orders(target, gpus, task, offline=offline)), gpus=(replace(_gpu(100), part_of=0),))
            yield told, engine.launch(told)
        for hosts in FETCH_HOSTS:
            told = replace(next(_orders(target, gpus, task, offline=offline)), fetch_hosts=hosts)
            yield told, engine.launch(told)


def _on_several_boxes(target: Target) -> Iterator[tuple[LaunchOrder, Launch]]:
    """Each rank of an engine. On Ray the ranks that follow are Ray's own processes."""
    kinds = RANKS[: 1 + (target.engine is EngineName.VLLM and any(target.gpus))]
    for gpus, ranks, offline in itertools.product(target.gpus, kinds, (False, True)):
        for rank in range(1 + (not ranks.ray)):
            told = replace(next(_orders(target, gpus, Task.GENERATE, offline=offline)), ranks=replace(ranks, rank=rank))
            yield told, ENGINES[target.engine].launch(told)


def _orders(target: Target, gpus: int, task: Task, *, offline: bool) -> Iterator[LaunchOrder]:
    for context, share, extra in itertools.product(CONTEXTS, SHARES, EXTRAS[target.engine]):
        for model_type, template in TEMPLATES if task is Task.GENERATE else TEMPLATES[:1]:
            for dtype in DTYPES[:1] if gpus else DTYPES:  # on a CPU only
                yield LaunchOrder(
                    replica="chat-engine",
                    served_name="team/chat:8b",
                    source="/data/models/chat" if offline else "Qwen/Qwen3-8B",
                    revision=None if offline else "main",
                    task=task,
                    port=21001,
                    gpus=tuple(_gpu(index) for index in range(gpus)),
                    memory=_memory(share) if share else None,
                    memory_fraction=share,
                    context=context,
                    context_is_a_guess=share is None,
                    dtype=dtype,
                    model=ModelFacts(model_type=model_type, template=template),
                    home="/opt/engines/it",
                    python="/opt/berth/bin/python",
                    run_dir="/run/berth",
                    data_dir="/data",
                    offline=offline,
                    extra_args=extra,
                )


def _gpu(index: int) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08d}-0000-0000-0000-000000000000",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_free_bytes=79 * GIB,
        compute_capability="9.0",
    )


def _memory(share: float) -> MemoryEstimate:
    total = int(80 * GIB * share)
    return MemoryEstimate(
        weights_bytes=total // 2,
        kv_bytes_per_token=1 << 17,
        kv_bytes=total // 4,
        overhead_bytes=4 * GIB,
        largest_context=65536,
    )
