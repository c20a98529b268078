"""SGLang: how it is started, probed and spoken to. Checked against the options and answers of 0.5.23."""

from dataclasses import replace

from berth.canonical import Answer, Failure, InferenceRequest, Json, Operation, UpstreamRequest
from berth.engines import lora, pooling, tokens
from berth.engines.arguments import number
from berth.engines.base import LaunchOrder, StreamDecoder, UnsupportedError
from berth.engines.constraints import Constraint, choice_regex, split_constraint
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
from berth.engines.media import media_request
from berth.engines.media_stream import MediaStreamDecoder
from berth.engines.openai_stream import OpenaiStreamDecoder, expected_choices
from berth.engines.openai_wire import name_reasoning, read_answer, upstream_body, upstream_request
from berth.engines.parsers import parsers_for
from berth.engines.request_fields import read_by
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


class SglangDialect:
    name = DialectName.SGLANG

    def request(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation is Operation.MEDIA:
            return media_request(request, engine_name(served_name))
        if request.operation in pooling.POOLING:
            _refuse_adapter(request)
            return pooling.sglang_request(request, engine_name(served_name))
        if request.operation in tokens.TOKENS:
            return _of_tokens(request, engine_name(served_name))
        body, constraint = split_constraint(upstream_body(request, engine_name(served_name)))
        if body.pop("include_stop_str_in_output", None):
            body["no_stop_trim"] = True
        if body.get("continue_final_message"):
            body.pop("add_generation_prompt", None)
        body, ignored = read_by(self.name, body, request.operation, "SGLang")
        if constraint is not None:
            body |= _constrained(constraint)
        if request.operation is Operation.CHAT:
            name_reasoning(body, "reasoning_content")
            if body.get("tool_choice") not in (None, "none", "auto"):
                body["tools"] = [_enforced(tool) for tool in body["tools"]]
        if request.adapter:
            body["lora_path"] = request.adapter  # a name; the other way, MODEL:NAME, parts it at any colon
        return upstream_request(request, body, ignored)

    def answer(self, request: InferenceRequest, model: str, status: int, body: bytes) -> Answer | Failure:
        return read_answer(request, model, status, body)

    def stream(self, request: InferenceRequest, model: str) -> StreamDecoder:
        if request.media is not None:
            return MediaStreamDecoder(request, model)
        return OpenaiStreamDecoder(request, model, choices=expected_choices(request))


def _refuse_adapter(request: InferenceRequest) -> None:
    if request.adapter:
        raise UnsupportedError(f"SGLang cannot {request.operation} with a LoRA adapter", param="model")


def _of_tokens(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    body = dict(request.body)
    name_reasoning(body, "reasoning_content")
    return tokens.sglang_request(replace(request, body=body), served_name)


def _enforced(tool: Json) -> Json:
    """A forced call has arguments of the tool's schema at vLLM in any case, here only if that is asked for."""
    return {**tool, "function": {"strict": True, **tool["function"]}}


def engine_name(served_name: str) -> str:
    """SGLang takes what follows a colon for a LoRA adapter, and never looks at the rest: `qwen3:8b` needs another."""
    return served_name.replace(":", "-")


def _constrained(constraint: Constraint) -> Json:
    """SGLang's spelling: `regex` and `ebnf` beside `response_format`."""
    if constraint.options:
        name = next(iter(constraint.options))
        raise UnsupportedError(f"SGLang does not support {name!r} in {constraint.field!r}", param=constraint.field)
    match constraint.kind:
        case "json":
            schema = {"name": "answer", "schema": constraint.value, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "regex":
            return {"regex": constraint.value}
        case "choice":
            return {"regex": choice_regex(constraint.value)}
        case "grammar":
            return {"ebnf": constraint.value}
    raise UnsupportedError("SGLang takes structural tags in 'response_format' only", param=constraint.field)
