"""The log lines of an engine while it loads, when it is ready and when it fails, in its own format. Pure."""

from collections.abc import Iterator
from datetime import datetime

from berth.plan import DialectName

_SHARDS = 4
_VLLM_CORE = "(EngineCore_DP0 pid=7) "
_FATAL_LINES = {
    DialectName.VLLM: (
        "{v}ERROR {t} [core.py:842] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}",
    ),
    DialectName.SGLANG: (
        "[{t}] Scheduler hit an exception: Traceback (most recent call last):",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
    ),
    DialectName.TRTLLM: (
        "[{t}] [TRT-LLM] [E] Failed to initialize executor on rank 0: CUDA out of memory.",
        "RuntimeError: Executor worker returned error",
    ),
}
_FIRST_LINE = {
    DialectName.VLLM: "INFO {t} [api_server.py:1896] vLLM API server version 0.32.0, model {model}",
    DialectName.SGLANG: "[{t}] server_args=ServerArgs(model_path='models/{model}', served_model_name='{model}')",
    DialectName.TRTLLM: "[{t}] [TRT-LLM] [I] Using LLM with PyTorch backend, model {model}",
}
_SHARD_LINE = {
    DialectName.VLLM: "{v}Loading safetensors checkpoint shards: {share:3d}% Completed | {progress}",
    DialectName.SGLANG: "Loading safetensors checkpoint shards: {share:3d}% Completed | {progress}",
    DialectName.TRTLLM: "Loading weights: {share:3d}%|{bar:10}| {progress}",
}
_WEIGHTS_LINE = {
    DialectName.VLLM: "{v}INFO {t} [default_loader.py:267] Loading weights took {load_s:.2f} seconds",
    DialectName.SGLANG: "[{t}] Load weight end. elapsed={load_s:.2f} s, type=LlamaForCausalLM, mem usage=15.30 GB.",
    DialectName.TRTLLM: "[{t}] [TRT-LLM] [I] Model init total -- {load_s:.2f}s",
}
_GRAPHS_LINE = {
    DialectName.VLLM: "{v}Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 67/67",
    DialectName.SGLANG: "[{t}] Capture cuda graph end. Time elapsed: 1.00 s.",
    DialectName.TRTLLM: "[{t}] [TRT-LLM] [I] Creating CUDA graph instances for 34 batch sizes.",
}
_TIME_FORMAT = {
    DialectName.VLLM: "%m-%d %H:%M:%S",
    DialectName.SGLANG: "%Y-%m-%d %H:%M:%S",
    DialectName.TRTLLM: "%m/%d/%Y-%H:%M:%S",
}


def load_lines(dialect: DialectName, model: str, load_s: float, moment: datetime) -> Iterator[tuple[float, str]]:
    """Each line with the share of the load time after which it is written, 0 to 1, in order."""
    fields = {"t": moment.strftime(_TIME_FORMAT[dialect]), "v": _VLLM_CORE, "model": model, "load_s": load_s}
    yield 0.0, _FIRST_LINE[dialect].format(**fields)
    for shard in range(_SHARDS + 1):
        share = shard / _SHARDS
        progress = f"{shard}/{_SHARDS} [00:{load_s * share:02.0f}<00:00,  1.00it/s]"
        percent = round(100 * share)
        line = _SHARD_LINE[dialect].format(**fields, share=percent, bar="█" * (percent // 10), progress=progress)
        yield 0.1 + share * 0.6, line
    yield 0.75, _WEIGHTS_LINE[dialect].format(**fields)
    yield 0.9, _GRAPHS_LINE[dialect].format(**fields)


def ready_lines(dialect: DialectName, host: str, port: int, pid: int, moment: datetime) -> list[str]:
    lines = [
        f"INFO:     Started server process [{pid}]",
        "INFO:     Waiting for application startup.",
        "INFO:     Application startup complete.",
        f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)",
    ]
    if dialect is DialectName.SGLANG:
        lines.append(f"[{moment.strftime(_TIME_FORMAT[dialect])}] The server is fired up and ready to roll!")
    return lines


def fatal_lines(dialect: DialectName, moment: datetime) -> list[str]:
    """The last lines before an engine exits for lack of GPU memory."""
    stamp = moment.strftime(_TIME_FORMAT[dialect])
    return [line.format(t=stamp, v=_VLLM_CORE) for line in _FATAL_LINES[dialect]]


def port_in_use_lines(dialect: DialectName, host: str, port: int) -> list[str]:
    if dialect is DialectName.TRTLLM:
        return [f"RuntimeError: Failed to bind socket to {host}:{port}: [Errno 98] Address already in use"]
    return [f"OSError: [Errno 98] error while attempting to bind on address ('{host}', {port}): address already in use"]
