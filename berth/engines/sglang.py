"""SGLang: how it is started, probed and put to sleep. Checked against the options of 0.5.23."""

from berth.dialects.sglang import engine_name
from berth.engines import lora, model_options
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import media_domains, number, option
from berth.engines.environment import (
    UNSET,
    cache_folders,
    caches,
    clamped,
    engine_environment,
    memory_fraction,
    rank_environment,
    share_bytes,
    shares_its_gpus,
    traces_environment,
)
from berth.engines.model_parsers import parsers_for
from berth.plan import DialectName, EngineName, Launch, Probe, Ranks, Sleep, SleepCall, Task
from berth.units import GIB


class SglangEngine:
    name = EngineName.SGLANG
    dialect = DialectName.SGLANG
    ready = Probe(path="/ready")  # /health generates a token and takes a second; /ready is instant and as reliable
    alive = Probe(path="/ready")
    # Each once: a second one of the same kind ends the engine. So does a request while it sleeps and is not paused.
    sleep: Sleep | None = Sleep(
        sleep_path="/release_memory_occupation",
        wake_path="/resume_memory_occupation",
        body={"tags": ("kv_cache", "weights", "cuda_graph")},
        pause=SleepCall(path="/pause_generation", body={"mode": "retract"}),
        resume=SleepCall(path="/continue_generation"),
    )
    takes_socket = False
    traces_flags: tuple[str, ...] = ("--otlp-traces-endpoint", "--enable-trace")
    start_timeout_s = 1800.0
    stop_timeout_s = 10.0  # it checks for the end of its work every 5 s

    def launch(self, order: LaunchOrder) -> Launch:
        argv = [f"{order.home}/bin/sglang", "serve", "--model-path", order.source]
        argv += ["--served-model-name", engine_name(order.served_name), "--host", order.host, "--port", str(order.port)]
        argv += ["--revision", order.revision] if order.revision else []
        argv += ["--context-length", str(order.context)] if order.context else []
        argv += _gpu_arguments(order) if order.gpus else _cpu_arguments(order)
        argv += rank_arguments(order.ranks, len(order.gpus)) if order.ranks else []
        notes: tuple[str, ...] = ()
        if order.task is Task.GENERATE:
            parsers = parsers_for(EngineName.SGLANG, order.model)
            argv += ["--tool-call-parser", parsers.tool] if parsers.tool else []
            argv += ["--reasoning-parser", parsers.reasoning] if parsers.reasoning else []
            notes = parsers.notes(order.extra_args)
        else:
            argv += ["--is-embedding"]
        notes += model_options.notes(self.name, order)
        argv += [*model_options.sglang_arguments(order), *lora.sglang_arguments(order), *media_domains(order)]
        argv += ["--enable-metrics", "--enable-cache-report", "--log-level-http", "warning"]
        if url := order.traces_endpoint:
            argv += ["--enable-trace", "--otlp-traces-endpoint", url, "--otlp-service-name", order.replica]
        # The key is in a configuration file: `ps` does not show it, and SGLang has no variable for it. It reads only
        # one such file, so with a user's own there is no key, nor with several tokenizer processes, which reject one.
        # Such an engine is protected by loopback alone.
        key_files: dict[str, str] = {}
        one_tokenizer = (number(order.extra_args, "--tokenizer-worker-num") or 1) <= 1
        if one_tokenizer and option(order.extra_args, "--config") is None:
            path = f"{order.run_dir}/{order.replica}.sglang.yaml"
            argv += ["--config", path]
            key_files = {path: 'api-key: "{key}"\n'}
        env = _environment(order)
        return Launch(
            argv=(*argv, *order.extra_args),
            env=env,
            unset=UNSET,
            key_files=key_files,
            folders=cache_folders(env),
            notes=notes,
            takes_otel=bool(order.traces_endpoint),
        )

    def overhead_bytes(self, *, gpus: int) -> int:
        """CUDA context, graphs and activations, which are not part of SGLang's static share."""
        if gpus == 0:
            return 0
        return 4 * GIB if gpus == 1 else 5 * GIB

    def concurrency(self, order: LaunchOrder) -> int | None:
        """By default SGLang computes it from the memory that it finds."""
        return number(order.extra_args, "--max-running-requests")


def _gpu_arguments(order: LaunchOrder) -> list[str]:
    """`--mem-fraction-static` is the part of the free memory at its start that SGLang uses for weights and KV cache.

    Alone on a GPU the free memory is the whole GPU, so the fraction is that of the total. With another replica it may
    be no more than the share itself; then the cache is also limited in tokens, in case this replica starts first.
    """
    memory, shared = order.memory, shares_its_gpus(order)
    of_share = 1 - SglangEngine().overhead_bytes(gpus=len(order.gpus)) / share_bytes(order)
    fraction = of_share if shared else memory_fraction(order) * of_share
    arguments = ["--mem-fraction-static", clamped(fraction, 0.1, 0.95)]
    if shared and memory is not None and memory.kv_tokens:
        arguments += ["--max-total-tokens", str(memory.kv_tokens)]
    arguments += ["--tp-size", str(len(order.gpus))] if order.ranks is None else []
    # Without the copy on the host it would wake with undefined weights.
    return arguments + (["--enable-memory-saver", "--enable-weights-cpu-backup"] if order.sleeps else [])


def rank_arguments(ranks: Ranks, gpus: int) -> list[str]:
    """`--tp-size` counts the GPUs of all boxes."""
    arguments = ["--tp-size", str(max(gpus, 1) * ranks.nodes), "--nnodes", str(ranks.nodes)]
    return [*arguments, "--node-rank", str(ranks.rank), "--dist-init-addr", ranks.meeting]


def _cpu_arguments(order: LaunchOrder) -> list[str]:
    arguments = ["--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    return [*arguments, "--disable-overlap-schedule", *(("--dtype", order.dtype) if order.dtype else ())]


def _environment(order: LaunchOrder) -> dict[str, str]:
    shared = caches(order, "sglang").shared
    env = engine_environment(order, "sglang") | traces_environment(order)
    env |= {
        "SGLANG_CACHE_DIR": str(shared / "sglang"),  # with the kernels of DeepGEMM and CuTe
        "SGLANG_JIT_CACHE_DIR": str(shared / "sglang" / "jit"),
        "HUMMING_CACHE_DIR": str(shared / "humming"),
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
        "SGL_FORCE_SHUTDOWN": "1",  # its own drain has no limit and continues to accept requests: Berth drains before
    }
    if order.sleeps and order.gpus:
        env["SGLANG_MEMORY_SAVER_CUDA_GRAPH"] = "1"  # otherwise the memory of the graphs is not released
    if order.ranks is not None:
        env |= {"SGLANG_HOST_IP": order.ranks.own, **rank_environment(order.ranks)}
    if not order.gpus:
        env["SGLANG_USE_CPU_ENGINE"] = "1"
    return env
