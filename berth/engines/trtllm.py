"""TensorRT-LLM: how it is started and probed. Checked against the sources of 1.2.1.

Only options that work on a real 1.2.1 are on the command line. All others are in the YAML file, whose keys are known
exactly (an unknown key would fail the start).
"""

from pathlib import PurePosixPath
from typing import Any

import yaml

from berth.engines import model_options
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import number
from berth.engines.environment import (
    UNSET,
    cache_folders,
    caches,
    engine_environment,
    memory_fraction,
    share_bytes,
    shares_its_gpus,
    traces_environment,
)
from berth.engines.model_parsers import parsers_for
from berth.errors import PlacementError
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep, Task
from berth.units import GIB

MAX_BATCH_SIZE = 2048  # its default


class TrtllmEngine:
    name = EngineName.TRTLLM
    dialect = DialectName.TRTLLM
    # /health returns 200 even when the executor is dead: only a generated token shows that it is alive.
    ready = Probe(path="/health_generate", timeout_s=30.0)
    alive = Probe(path="/health_generate", timeout_s=30.0)
    sleep: Sleep | None = None  # its requests for it are for training, and fail in an ordinary server
    takes_socket = False
    traces_flags: tuple[str, ...] = ("--otlp-traces-endpoint",)
    start_timeout_s = 2400.0
    stop_timeout_s = 10.0

    def launch(self, order: LaunchOrder) -> Launch:
        if not order.gpus:
            raise PlacementError(f"{order.replica}: TensorRT-LLM runs on NVIDIA GPUs only. Choose vllm for a CPU.")
        if order.task is not Task.GENERATE:
            kind = "embeddings" if order.task is Task.EMBED else f"models to {order.task} with"
            raise PlacementError(f"{order.replica}: TensorRT-LLM 1.2 serves no {kind}. Choose vllm or sglang.")
        options_path = f"{order.run_dir}/{order.replica}.trtllm.yaml"
        model = order.source
        links: dict[str, str] = {}
        if model.startswith("/"):
            # TensorRT-LLM 1.2.1 names a model by the last part of its path, so a local one gets a link of the right
            # name, without slashes. The engine echoes the name in a request, so only its own list of models differs.
            model = str(PurePosixPath(order.run_dir, "models", order.replica, order.served_name.replace("/", "--")))
            links = {model: order.source}
        argv = [f"{order.home}/bin/trtllm-serve", "serve", model, "--backend", "pytorch"]
        argv += ["--host", order.host, "--port", str(order.port)]
        argv += ["--max_seq_len", str(order.context)] if order.context else []
        parsers = parsers_for(EngineName.TRTLLM, order.model)
        argv += ["--tool_parser", parsers.tool] if parsers.tool else []
        argv += ["--otlp_traces_endpoint", order.traces_endpoint] if order.traces_endpoint else []
        argv += ["--extra_llm_api_options", options_path, *order.extra_args]
        cache = caches(order, "trtllm")
        env = engine_environment(order, "trtllm") | traces_environment(order)
        env |= {
            "TRTLLM_DG_CACHE_DIR": str(cache.shared / "deep_gemm"),
            "TLLM_LLMAPI_BUILD_CACHE_ROOT": str(cache.model / "build"),  # of the backend `tensorrt`; default: /tmp
            "TRTLLM_NO_USAGE_STATS": "1",
        }
        return Launch(  # without a key: it supports none, and is protected by loopback alone
            argv=tuple(argv),
            env=env,
            unset=UNSET,
            folders=cache_folders(env),
            notes=parsers.notes(order.extra_args) + model_options.notes(self.name, order),
            files={options_path: yaml.safe_dump(options(order), sort_keys=True)},
            links=links,
            takes_otel=bool(order.traces_endpoint),
        )

    def overhead_bytes(self, *, gpus: int) -> int:
        """CUDA context, graphs and activations of batches of up to 8192 tokens."""
        if gpus == 0:
            return 0
        return 5 * GIB if gpus == 1 else 6 * GIB

    def concurrency(self, order: LaunchOrder) -> int | None:
        return number(order.extra_args, "--max_batch_size") or MAX_BATCH_SIZE


def options(order: LaunchOrder) -> dict[str, Any]:
    """The content of the YAML file, which takes precedence over the command line."""
    parsers = parsers_for(EngineName.TRTLLM, order.model)
    return {
        "tensor_parallel_size": len(order.gpus),
        "guided_decoding_backend": "xgrammar",  # without it a JSON schema is accepted and ignored
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,
        "kv_cache_config": _kv_cache_config(order),
        **({"revision": order.revision} if order.revision else {}),
        **({"reasoning_parser": parsers.reasoning} if parsers.reasoning else {}),
    }


def _kv_cache_config(order: LaunchOrder) -> dict[str, Any]:
    """`free_gpu_memory_fraction` is the KV cache's part of the memory that the weights leave.

    With another replica on the same GPU that memory depends on the order of starts, so the cache is limited in tokens
    too.
    """
    memory, own = order.memory, model_options.trtllm_kv_cache(order)
    if memory is None:
        return {"free_gpu_memory_fraction": memory_fraction(order), **own}
    shared = shares_its_gpus(order)
    share = share_bytes(order)
    total = share if shared else min(gpu.memory_total_bytes for gpu in order.gpus)
    kv_bytes = memory.kv_bytes if shared else share - memory.weights_bytes - memory.overhead_bytes
    fraction = kv_bytes / max(total - memory.weights_bytes, 1)
    config: dict[str, Any] = {"free_gpu_memory_fraction": round(min(max(fraction, 0.05), 0.95), 3), **own}
    if shared and memory.kv_tokens:
        config["max_tokens"] = memory.kv_tokens
    return config
