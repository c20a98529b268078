"""vLLM: how it is started, probed and put to sleep. Checked against the options of 0.33.0."""

from collections.abc import Sequence

from berth.engines import lora, model_options
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import media_domains, number
from berth.engines.environment import (
    UNSET,
    cache_folders,
    caches,
    clamped,
    engine_environment,
    memory_fraction,
    traces_environment,
)
from berth.engines.model_parsers import parsers_for
from berth.engines.ray import vllm_ranks
from berth.plan import DialectName, EngineName, Gpu, Launch, Probe, Ranks, Sleep, SleepCall, Task
from berth.units import GIB

CPU_KV_CACHE_BYTES = 256 << 20  # the default: enough for a small model's context
CPU_MAX_SEQUENCES = 8
# A later stage of a pipeline makes its buffers in the warm-up. vLLM's CPU build leaves that out with --enforce-eager,
# and ends with the first request. This mode has a warm-up, and compiles nothing where TORCHDYNAMO_DISABLE is set.
CPU_STAGES = ("--compilation-config", '{"mode": 1}')
BATCH_TOKENS, LARGE_GPU_BATCH_TOKENS = 2048, 8192  # --max-num-batched-tokens
SEQUENCES, LARGE_GPU_SEQUENCES = 256, 1024  # --max-num-seqs
LARGE_GPU_BYTES = 70 * GIB
# What sleeps without its weights does not read those of a drafter again: they stay.
SLEEP_ARGUMENTS = ["--enable-sleep-mode", "--sleep-preserve-parameter-names", "draft.*"]
# What a server imports whatever its model is: most of the time of a start on the CPU.
PRELOADED_MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "transformers",
)
PRELOADED_FOR_CPU = ("vllm.v1.worker.cpu_model_runner", "vllm.v1.worker.cpu_worker")
PRELOADED_FOR_GPU = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu_worker")
# Variables of one model. None of these modules keeps what they are (tests/e2e/test_vllm_fork.py).
DIFFERING = ("VLLM_API_KEY", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")
# Its second process is forked too, instead of importing all of it once more. Where CUDA is in use vLLM spawns it all
# the same. On the CPU it always does, and looks at a new model's class in a third process, so that CUDA is not touched.
FORK_ON_GPU = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
REPLACED_ON_CPU = {
    "vllm.utils.system_utils:get_mp_context": "fork",
    "vllm.model_executor.models.registry:_run_in_subprocess": "call",
}
SHUTDOWN_TIMEOUT_S = 5  # requests in flight; the router has drained the replica before it is stopped


def is_large(gpu: Gpu) -> bool:
    """Whether vLLM takes larger batches on this GPU by default (its engine/arg_utils.py)."""
    return gpu.memory_total_bytes >= LARGE_GPU_BYTES and "a100" not in gpu.name.lower()


def batch_tokens(gpus: Sequence[Gpu]) -> int:
    """Of vLLM, by default, for these GPUs."""
    return LARGE_GPU_BATCH_TOKENS if gpus and all(map(is_large, gpus)) else BATCH_TOKENS


def most_sequences(gpus: Sequence[Gpu]) -> int:
    """The same, of requests at once."""
    return LARGE_GPU_SEQUENCES if all(map(is_large, gpus)) else SEQUENCES


class VllmEngine:
    name = EngineName.VLLM
    dialect = DialectName.VLLM
    ready = Probe(path="/health")  # the port is closed until the engine is loaded
    alive = Probe(path="/health")  # 503 once the engine process is dead
    sleep: Sleep | None = Sleep(
        sleep_path="/sleep?level=1",
        wake_path="/wake_up",
        light=(SleepCall(path="/sleep?level=2"),),
        reload=(
            SleepCall(path="/wake_up?tags=weights"),
            SleepCall(path="/collective_rpc", body={"method": "reload_weights"}),
            SleepCall(path="/wake_up?tags=kv_cache"),
        ),
        state_path="/is_sleeping",
    )
    takes_socket = True
    traces_flags: tuple[str, ...] = ("--otlp-traces-endpoint",)
    start_timeout_s = 1800.0
    stop_timeout_s = 10.0

    def launch(self, order: LaunchOrder) -> Launch:
        # The model comes first: --served-model-name takes any number of values, and would take it too.
        argv = [f"{order.home}/bin/vllm", "serve", order.source]
        argv += ["--served-model-name", order.served_name]
        argv += ["--uds", order.socket] if order.socket else ["--host", order.host, "--port", str(order.port)]
        argv += ["--revision", order.revision] if order.revision else []
        length = "auto" if order.context_is_a_guess else str(order.context)
        argv += ["--max-model-len", length] if order.context else []
        if order.gpus:
            argv += _gpu_arguments(order)
        else:
            kv_bytes = order.memory.kv_bytes if order.memory else CPU_KV_CACHE_BYTES
            argv += ["--kv-cache-memory-bytes", str(kv_bytes), "--max-num-seqs", str(CPU_MAX_SEQUENCES)]
            one_box = ["--enforce-eager", "--distributed-executor-backend", "uni"]
            argv += one_box if order.ranks is None else list(CPU_STAGES)
            argv += ["--dtype", order.dtype] if order.dtype else []
        argv += rank_arguments(order.ranks) if order.ranks else []
        notes = model_options.notes(self.name, order) + length_notes(order)
        if order.task is Task.GENERATE:
            parsers = parsers_for(EngineName.VLLM, order.model)
            argv += ["--enable-auto-tool-choice", "--tool-call-parser", parsers.tool] if parsers.tool else []
            argv += ["--reasoning-parser", parsers.reasoning] if parsers.reasoning else []
            notes = parsers.notes(order.extra_args) + notes
        else:
            argv += ["--runner", "pooling"]
        argv += [*model_options.vllm_arguments(order), *lora.vllm_arguments(order), *media_domains(order)]
        argv += SLEEP_ARGUMENTS if order.sleeps and order.gpus else []  # on the CPU it exits with 1
        argv += ["--otlp-traces-endpoint", order.traces_endpoint] if order.traces_endpoint else []
        argv += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log", "--disable-fastapi-docs"]
        argv += ["--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S), *order.extra_args]
        env = _environment(order)
        return Launch(
            argv=tuple(argv),
            env=env,
            unset=UNSET,
            key_variable="VLLM_API_KEY",
            folders=cache_folders(env),
            notes=notes,
            takes_otel=bool(order.traces_endpoint),
        )

    def overhead_bytes(self, *, gpus: int) -> int:
        """CUDA context, graphs and activations; with several GPUs NCCL's buffers too."""
        if gpus == 0:
            return 0
        return 3 * GIB if gpus == 1 else 4 * GIB

    def concurrency(self, order: LaunchOrder) -> int | None:
        """The sum over its data-parallel copies; by default vLLM's own limit for these GPUs, Berth's on the CPU."""
        default = most_sequences(order.gpus) if order.gpus else CPU_MAX_SEQUENCES
        copies = number(order.extra_args, "--data-parallel-size", "-dp") or 1
        return copies * (number(order.extra_args, "--max-num-seqs") or default)


def _gpu_arguments(order: LaunchOrder) -> list[str]:
    arguments = ["--gpu-memory-utilization", clamped(memory_fraction(order), 0.01, 0.98)]
    arguments += ["--tensor-parallel-size", str(len(order.gpus))]
    if any(gpu.part_of is not None for gpu in order.gpus):  # it would size these by the GPU around the instance
        arguments += ["--max-num-batched-tokens", str(batch_tokens(order.gpus))]
        arguments += ["--max-num-seqs", str(most_sequences(order.gpus))]
    return arguments


def rank_arguments(ranks: Ranks) -> list[str]:
    """Layers are divided among the boxes, each layer among the GPUs of a box. Ray starts the ranks of the other boxes
    itself; without it each box starts its own, and only the head has an API.
    """
    arguments = ["--pipeline-parallel-size", str(ranks.nodes)]
    if ranks.ray:
        return [*arguments, "--distributed-executor-backend", "ray"]
    arguments += ["--nnodes", str(ranks.nodes), "--node-rank", str(ranks.rank)]
    arguments += ["--master-addr", ranks.head, "--master-port", str(ranks.port)]
    return [*arguments, "--headless"] if ranks.rank else arguments


def length_notes(order: LaunchOrder) -> tuple[str, ...]:
    """Where the plan shows a figure that is not on the command line."""
    if not order.context or not order.context_is_a_guess:
        return ()
    return (f"length: vLLM finds the longest context that fits; {order.context} tokens are an estimate",)


def _environment(order: LaunchOrder) -> dict[str, str]:
    """`VLLM_CACHE_ROOT` holds the results of torch.compile, with Inductor's and Triton's caches of the model."""
    cache = caches(order, "vllm")
    shared, model = cache.shared, cache.model
    env = engine_environment(order, "vllm")
    env |= {"VLLM_CACHE_ROOT": str(model / "vllm"), "VLLM_CONFIG_ROOT": str(shared / "config" / "vllm")}
    env |= {"DG_JIT_CACHE_DIR": str(shared / "deep_gemm"), "HUMMING_CACHE_DIR": str(shared / "humming")}
    env |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
    env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # a redirect from an allowed host may lead anywhere
    env |= traces_environment(order)
    if order.sleeps:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # opens /sleep; on the CPU sleep stops the work and releases nothing
    if order.spare_adapters:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # opens /v1/load_lora_adapter, which the router does not forward
    if order.ranks is not None:
        env |= vllm_ranks(order.ranks)
    if not order.gpus:
        env["TORCHDYNAMO_DISABLE"] = "1"  # no compiler on the first request with logprobs
        if order.ranks is None:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process instead of three
    return env
