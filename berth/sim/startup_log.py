"""What an engine writes while it loads, and with its last breath, in its own style. Pure."""

from collections.abc import Iterator
from datetime import datetime

from berth.plan import DialectName

_SHARDS = 4
_LAST_WORDS = {
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


def load_lines(dialect: DialectName, model: str, load_s: float, moment: datetime) -> Iterator[tuple[float, str]]:
    """Each line with the share of the load time after which it is written, 0 to 1, in order."""
    stamp = _stamp(dialect, moment)
    yield 0.0, _first_line(dialect, model, stamp)
    for shard in range(_SHARDS + 1):
        share = shard / _SHARDS
        yield 0.1 + share * 0.6, _shard_line(dialect, shard, load_s * share)
    yield 0.75, _weights_line(dialect, load_s, stamp)
    yield 0.9, _graphs_line(dialect, stamp)


def ready_lines(dialect: DialectName, host: str, port: int, pid: int, moment: datetime) -> list[str]:
    lines = [
        f"INFO:     Started server process [{pid}]",
        "INFO:     Waiting for application startup.",
        "INFO:     Application startup complete.",
        f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)",
    ]
    if dialect is DialectName.SGLANG:
        lines.append(f"[{_stamp(dialect, moment)}] The server is fired up and ready to roll!")
    return lines


def last_words(dialect: DialectName, moment: datetime) -> list[str]:
    stamp = _stamp(dialect, moment)
    return [line.format(t=stamp, v="(EngineCore_DP0 pid=7) ") for line in _LAST_WORDS[dialect]]


def port_taken_lines(dialect: DialectName, host: str, port: int) -> list[str]:
    if dialect is DialectName.TRTLLM:
        return [f"RuntimeError: Failed to bind socket to {host}:{port}: [Errno 98] Address already in use"]
    return [f"OSError: [Errno 98] error while attempting to bind on address ('{host}', {port}): address already in use"]


def _first_line(dialect: DialectName, model: str, stamp: str) -> str:
    match dialect:
        case DialectName.VLLM:
            return f"INFO {stamp} [api_server.py:1896] vLLM API server version 0.32.0, model {model}"
        case DialectName.SGLANG:
            return f"[{stamp}] server_args=ServerArgs(model_path='models/{model}', served_model_name='{model}')"
        case _:
            return f"[{stamp}] [TRT-LLM] [I] Using LLM with PyTorch backend, model {model}"


def _shard_line(dialect: DialectName, shard: int, elapsed_s: float) -> str:
    share = round(100 * shard / _SHARDS)
    if dialect is DialectName.TRTLLM:
        bar = "█" * (share // 10) + " " * (10 - share // 10)
        return f"Loading weights: {share:3d}%|{bar}| {shard}/{_SHARDS} [00:{elapsed_s:02.0f}<00:00,  1.00it/s]"
    prefix = "(EngineCore_DP0 pid=7) " if dialect is DialectName.VLLM else ""
    progress = f"{share:3d}% Completed | {shard}/{_SHARDS} [00:{elapsed_s:02.0f}<00:00,  1.00it/s]"
    return f"{prefix}Loading safetensors checkpoint shards: {progress}"


def _weights_line(dialect: DialectName, load_s: float, stamp: str) -> str:
    match dialect:
        case DialectName.VLLM:
            return (
                f"(EngineCore_DP0 pid=7) INFO {stamp} [default_loader.py:267] Loading weights took {load_s:.2f} seconds"
            )
        case DialectName.SGLANG:
            return f"[{stamp}] Load weight end. elapsed={load_s:.2f} s, type=LlamaForCausalLM, mem usage=15.30 GB."
        case _:
            return f"[{stamp}] [TRT-LLM] [I] Model init total -- {load_s:.2f}s"


def _graphs_line(dialect: DialectName, stamp: str) -> str:
    match dialect:
        case DialectName.VLLM:
            return (
                "(EngineCore_DP0 pid=7) Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 67/67"
            )
        case DialectName.SGLANG:
            return f"[{stamp}] Capture cuda graph end. Time elapsed: 1.00 s."
        case _:
            return f"[{stamp}] [TRT-LLM] [I] Creating CUDA graph instances for 34 batch sizes."


def _stamp(dialect: DialectName, moment: datetime) -> str:
    formats = {DialectName.VLLM: "%m-%d %H:%M:%S", DialectName.TRTLLM: "%m/%d/%Y-%H:%M:%S"}
    return moment.strftime(formats.get(dialect, "%Y-%m-%d %H:%M:%S"))
