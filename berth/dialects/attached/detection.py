"""Which server is attached, and what it says of itself, from its answers to GET requests.

Pure: `get` returns the answer of a path. The first rule that holds decides; a server that no rule knows is one of
OpenAI's API. The rules are what the servers sent when they were run; docs/models.md says which could only be read of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import orjson

from berth import json_text
from berth.canonical import Json
from berth.plan import API_PATH, DialectName, Discovered, Replica

_OWNERS: Final = {  # `owned_by` of a model
    "vllm": DialectName.VLLM,
    "berth": DialectName.VLLM,  # another Berth reads what vLLM does, and continues answers
    "sglang": DialectName.SGLANG,
    "tensorrt_llm": DialectName.TRTLLM,
    "llamacpp": DialectName.LLAMACPP,
    "infinity": DialectName.INFINITY,
}
_INFINITYS_BATCH: Final = 2048  # a limit in its code, which it does not report
_LONGEST_TEXT: Final = 1000  # bytes of an answer that is compared as text
_CLOUDS: Final = (".openai.com", ".openai.azure.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of a GET request. `document`: its JSON; None where it is none. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    document: Any = None
    text: str = ""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> Self:
        try:
            document = json_text.loads(body)
        except orjson.JSONDecodeError:
            document = None
        lowered = {name.lower(): value for name, value in headers.items()}
        text = body[:_LONGEST_TEXT].decode(errors="replace")
        return cls(status=status, headers=lowered, document=document, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a server says of itself. None and "" for what it does not say."""

    reached: bool = True
    dialect: DialectName = DialectName.OPENAI
    api_path: str = API_PATH
    names: tuple[str, ...] = ()  # of its models
    context: int | None = None  # of the model, in tokens
    concurrency: int | None = None  # requests at once
    batch: int | None = None  # inputs in one embeddings request
    weights: str = ""  # where its weights come from


# All that `identify` may ask for, but the lists of models.
PATHS: Final = ("/health", "/", "/info", "/openapi.json", "/get_model_info", "/props")
Get = Callable[[str], Answer | None]  # None: no answer in time


def identify(get: Get, host: str, api_paths: Sequence[str], name: str) -> Discovery:
    """`api_paths`: where its API may be, the likeliest first. `name`: of the model that is asked for."""
    api_path, answer = _find_api(get, api_paths)
    if answer is None:
        return Discovery(reached=False, api_path=api_path)
    models = _models(answer.document)
    ids = [model.get("id") for model in models if not model.get("parent")]  # the parent of an adapter is its model
    names = tuple(one for one in ids if isinstance(one, str))
    found = Discovery(dialect=_dialect(get, host, answer, models), api_path=api_path, names=names)
    same = [model for model in models if model.get("id") == name] or (models if len(models) == 1 else ())
    details = _DETAILS.get(found.dialect)
    return details(found, get, same[0] if same else {}, host) if details else found


def settle(replica: Replica, found: Discovery) -> Discovered:
    """What is configured counts, then what the server says. The public name of the model counts as not configured."""
    dialect = found.dialect if replica.detects else replica.dialect
    unnamed = replica.served_name == replica.model and len(found.names) == 1
    contexts = [count for count in (replica.context, found.context) if count]
    return Discovered(
        dialect=dialect,
        api_path=found.api_path,
        served_name=found.names[0] if unnamed else replica.served_name,
        context=min(contexts, default=None),
        concurrency=replica.concurrency or found.concurrency,
        batch=replica.batch or found.batch,
        weights=replica.weights or (f"{dialect} {found.weights}" if found.weights else ""),
    )


def _find_api(get: Get, api_paths: Sequence[str]) -> tuple[str, Answer | None]:
    """The first path with a list of models, else the first one with any answer."""
    first: Answer | None = None
    for api_path in api_paths:
        answer = get(f"{api_path}/models")
        if answer is None:
            break
        if answer.status == 200 and _models(answer.document):
            return api_path, answer
        first = first or answer
    return api_paths[0], first


def _dialect(get: Get, host: str, answer: Answer, models: Sequence[Json]) -> DialectName:
    if host.endswith(_CLOUDS):
        return DialectName.OPENAI_CLOUD
    owners = [str(model.get("owned_by")) for model in models]
    for owner in owners:
        if owner in _OWNERS:
            return _OWNERS[owner]
    server = answer.headers.get("server", "")
    if server == "llama.cpp":
        return DialectName.LLAMACPP
    if "me" in owners and any("permissions" in model for model in models):
        return DialectName.LLAMACPP_PYTHON
    if any(name.startswith("x-litellm-") for name in answer.headers):
        return DialectName.OPENAI
    return next((dialect for dialect, rule in _BY_PATHS if rule(get, server)), DialectName.OPENAI)


def is_mlx(get: Get, server: str) -> bool:
    return server.startswith("BaseHTTP/") and _document(get("/health")).get("status") in {"ok", "unavailable"}


def is_ollama(get: Get, _server: str) -> bool:
    """Not by its paths, which other servers have too."""
    answer = get("/")
    return answer is not None and answer.text.strip() == "Ollama is running"


def is_tei(get: Get, _server: str) -> bool:
    info = _document(get("/info"))
    return "model_id" in info and "max_client_batch_size" in info and "model_type" in info


def is_transformers(get: Get, server: str) -> bool:
    paths = _document(get("/openapi.json")).get("paths") if server == "uvicorn" else None
    return isinstance(paths, dict) and {"/load_model", "/reset"} <= paths.keys()


def is_sglang(get: Get, server: str) -> bool:
    return server == "uvicorn" and "is_generation" in _document(get("/get_model_info"))


_BY_PATHS: Final = (
    (DialectName.MLX, is_mlx),
    (DialectName.OLLAMA, is_ollama),
    (DialectName.SGLANG, is_sglang),
    (DialectName.TRANSFORMERS, is_transformers),
    (DialectName.TEI, is_tei),
)


def vllm_details(found: Discovery, _get: Get, model: Json, _host: str) -> Discovery:
    """`root` is a public name at another Berth."""
    root = model.get("root") if model.get("owned_by") == "vllm" else ""
    return replace(found, context=_count(model.get("max_model_len")), weights=_repository(root))


def sglang_details(found: Discovery, get: Get, model: Json, _host: str) -> Discovery:
    """`root` is the public name there."""
    info = _document(get("/get_model_info"))
    version = info.get("weight_version")
    weights = _repository(info.get("model_path"))
    if weights and isinstance(version, str) and version != "default":
        weights += f" {version}"
    return replace(found, context=_count(model.get("max_model_len")), weights=weights)


def llamacpp_details(found: Discovery, get: Get, model: Json, host: str) -> Discovery:
    """A router of several models has no slots of its own."""
    props, meta = _document(get("/props")), model.get("meta")
    settings = props.get("default_generation_settings")
    context = meta.get("n_ctx") if isinstance(meta, dict) else None
    context = context or (settings.get("n_ctx") if isinstance(settings, dict) else None)
    path = props.get("model_path")
    # one file: of this name on this host, and of this size, since each container has files of its own
    sizes = [meta.get(name) for name in ("size", "n_params", "n_vocab")] if isinstance(meta, dict) else [None]
    known = isinstance(path, str) and path and all(isinstance(size, int) for size in sizes)
    weights = " ".join(map(str, (host, path, *sizes))) if known else ""
    return replace(found, context=_count(context), concurrency=_count(props.get("total_slots")), weights=weights)


def tei_details(found: Discovery, get: Get, _model: Json, _host: str) -> Discovery:
    info = _document(get("/info"))
    name = info.get("model_id")
    return replace(
        found,
        names=(name,) if isinstance(name, str) else (),
        context=_count(info.get("max_input_length")),
        batch=_count(info.get("max_client_batch_size")),
    )


def llamacpp_python_details(found: Discovery, _get: Get, _model: Json, _host: str) -> Discovery:
    return replace(found, concurrency=1)


def infinity_details(found: Discovery, _get: Get, _model: Json, _host: str) -> Discovery:
    return replace(found, batch=_INFINITYS_BATCH)


_DETAILS: Final = {
    DialectName.INFINITY: infinity_details,
    DialectName.VLLM: vllm_details,
    DialectName.SGLANG: sglang_details,
    DialectName.LLAMACPP: llamacpp_details,
    DialectName.LLAMACPP_PYTHON: llamacpp_python_details,
    DialectName.TEI: tei_details,
}


def _repository(source: Any) -> str:
    """A repository is the same everywhere. At a path may be anything, in each container something else."""
    is_hub_id = isinstance(source, str) and source.count("/") == 1 and not source.startswith(("/", ".", "~"))
    return source if is_hub_id else ""


def _models(document: Any) -> list[Json]:
    data = document.get("data") if isinstance(document, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


def _document(answer: Answer | None) -> Json:
    return answer.document if answer and answer.status < 400 and isinstance(answer.document, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
