"""SGLang: how it is started, probed and spoken to. Checked against the options and answers of 0.5.23."""

from berth.dialects.sglang import engine_name
from berth.engines import lora
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import media_domains, number
from berth.engines.environment import (
    UNSET,
    cache_folders,
    caches,
    clamped,
    engine_environment,
    memory_fraction,
    share_bytes,
    shares_its_gpus,
)
from berth.engines.model_parsers import parsers_for
from berth.plan import DialectName, EngineName, Launch, Probe, Sleep, Task

GIB = 1 << 30


class SglangEngine:
    name = EngineName.SGLANG
    dialect = DialectName.SGLANG
    ready = Probe(path="/ready")  # /health generates a token and takes a second; /ready is instant and as true
    alive = Probe(path="/ready")
    # Only while nothing runs, and each once: the second of the same kind ends the engine.
    sleep: Sleep | None = Sleep(
        sleep_path="/release_memory_occupation",
        wake_path="/resume_memory_occupation",
        body={"tags": ("kv_cache", "weights", "cuda_graph")},
    )
    takes_socket = False
    start_timeout_s = 1800.0
    stop_timeout_s = 10.0  # it looks for the end of its work every 5 s

    def launch(self, order: LaunchOrder) -> Launch:
        argv = [f"{order.home}/bin/sglang", "serve", "--model-path", order.source]
        argv += ["--served-model-name", engine_name(order.served_name), "--host", order.host, "--port", str(order.port)]
        argv += ["--revision", order.revision] if order.revision else []
        argv += ["--context-length", str(order.context)] if order.context else []
        argv += _gpu_arguments(order) if order.gpus else _cpu_arguments(order)
        argv += _task_arguments(order)
        argv += lora.sglang_arguments(order)
        argv += media_domains(order)
        argv += ["--enable-metrics", "--enable-cache-report", "--log-level-http", "warning"]
        key_files = _key_files(order)
        argv += [word for path in key_files for word in ("--config", path)]
        env = _environment(order)
        argv += order.extra_args
        return Launch(argv=tuple(argv), env=env, unset=UNSET, key_files=key_files, folders=cache_folders(env))

    def overhead_bytes(self, *, gpus: int) -> int:
        """CUDA context, graphs and activations, which SGLang keeps out of its static share."""
        if gpus == 0:
            return 0
        return 4 * GIB if gpus == 1 else 5 * GIB

    def concurrency(self, order: LaunchOrder) -> int | None:
        """Where nobody says, SGLang reckons it from the memory that it finds."""
        return number(order.extra_args, "--max-running-requests")


def _key_files(order: LaunchOrder) -> dict[str, str]:
    """The key's only way that `ps` does not show: SGLang has no variable for it, and puts what a configuration file
    says in front of the command line. It reads one such file, so a user's own leaves no place for the key; and several
    tokenizer processes refuse a key. Such an engine is guarded by loopback alone.
    """
    if "--config" in order.extra_args or _tokenizers(order.extra_args) > 1:
        return {}
    return {f"{order.run_dir}/{order.replica}.sglang.yaml": 'api-key: "{key}"\n'}


def _tokenizers(arguments: tuple[str, ...]) -> int:
    words = [word for argument in arguments for word in argument.split("=", 1)]
    flags = [position for position, word in enumerate(words) if word == "--tokenizer-worker-num"]
    counts = [words[position + 1] for position in flags if position + 1 < len(words)]
    return int(counts[-1]) if counts and counts[-1].isdecimal() else 1


def _gpu_arguments(order: LaunchOrder) -> list[str]:
    return [
        *("--mem-fraction-static", _static_fraction(order)),
        *_token_cap(order),
        *("--tp-size", str(len(order.gpus))),
        # Without the copy on the host it would wake with whatever lies in its memory then.
        *(("--enable-memory-saver", "--enable-weights-cpu-backup") if order.sleeps else ()),
    ]


def _static_fraction(order: LaunchOrder) -> str:
    """The part of the memory free at start that goes to weights and KV cache.

    SGLang measures it against what is free when it starts. Alone that is the whole GPU, so the share counts from the
    total. Beside another replica it may be no more than the share itself; `_token_cap` then keeps it from taking
    more when it happens to start first.
    """
    overhead = SglangEngine().overhead_bytes(gpus=len(order.gpus))
    of_share = 1 - overhead / share_bytes(order)
    return clamped(of_share if shares_its_gpus(order) else memory_fraction(order) * of_share, 0.1, 0.95)


def _token_cap(order: LaunchOrder) -> tuple[str, ...]:
    memory = order.memory
    if memory is None or not shares_its_gpus(order) or memory.kv_bytes_per_token == 0:
        return ()
    return ("--max-total-tokens", str(memory.kv_bytes // memory.kv_bytes_per_token))


def _cpu_arguments(order: LaunchOrder) -> list[str]:
    return [
        *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
        "--disable-overlap-schedule",
        *(("--dtype", order.dtype) if order.dtype else ()),
    ]


def _task_arguments(order: LaunchOrder) -> list[str]:
    if order.task is not Task.GENERATE:
        return ["--is-embedding"]
    parsers = parsers_for(EngineName.SGLANG, model_type=order.model_type, chat_template=order.chat_template)
    arguments = ["--tool-call-parser", parsers.tool] if parsers.tool else []
    return arguments + (["--reasoning-parser", parsers.reasoning] if parsers.reasoning else [])


def _environment(order: LaunchOrder) -> dict[str, str]:
    shared = caches(order, "sglang").shared
    env = engine_environment(order, "sglang")
    env |= {
        "SGLANG_CACHE_DIR": str(shared / "sglang"),  # DeepGEMM's and CuTe's kernels lie in it
        "SGLANG_JIT_CACHE_DIR": str(shared / "sglang" / "jit"),
        "HUMMING_CACHE_DIR": str(shared / "humming"),
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
        "SGL_FORCE_SHUTDOWN": "1",  # its own drain has no limit and goes on taking requests: Berth drains before
    }
    if order.sleeps and order.gpus:
        env["SGLANG_MEMORY_SAVER_CUDA_GRAPH"] = "1"  # or the memory of the graphs stays taken
    if not order.gpus:
        env["SGLANG_USE_CPU_ENGINE"] = "1"
    return env
