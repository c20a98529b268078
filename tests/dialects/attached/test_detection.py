"""Which server it is. Answers are as seen on the wire; those of TEI and Ollama are from their documentation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from berth.canonical import Json
from berth.dialects.attached.detection import PATHS, Answer, Discovery, identify, settle
from berth.plan import DialectName, EngineName, Probe, Replica, Task

D = DialectName


def answer(document: Any = None, *, status: int = 200, text: str = "", **headers: str) -> Answer:
    return Answer(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        document=document,
        text=text,
    )


def models(*entries: Json) -> Json:
    return {"object": "list", "data": list(entries)}


NOT_FOUND = answer({"detail": "Not Found"}, status=404)
META: Json = {"n_ctx": 2048, "size": 9, "n_params": 8, "n_vocab": 7}
LLAMACPP: dict[str, Answer] = {
    "/v1/models": answer(models({"id": "/m/tiny.gguf", "owned_by": "llamacpp", "meta": META}), server="llama.cpp"),
    "/props": answer({"total_slots": 2, "model_path": "/m/tiny.gguf", "default_generation_settings": {"n_ctx": 2048}}),
}
VLLM = {"/v1/models": answer(models({"id": "q", "owned_by": "vllm", "root": "Qwen/Qwen3-8B", "max_model_len": 4096}))}
SERVERS: list[tuple[str, dict[str, Answer], Discovery]] = [
    (
        "llama.cpp",
        LLAMACPP,
        Discovery(
            dialect=D.LLAMACPP, names=("/m/tiny.gguf",), context=2048, concurrency=2, weights="box /m/tiny.gguf 9 8 7"
        ),
    ),
    (
        "llama.cpp that loads",
        {"/v1/models": answer({"error": {"code": 503, "message": "Loading model"}}, status=503, server="llama.cpp")},
        Discovery(dialect=D.LLAMACPP),
    ),
    (
        "llama.cpp that routes",
        {
            "/v1/models": answer(models({"id": "a"}, {"id": "m"}), server="llama.cpp"),
            "/props": answer({"role": "router", "total_slots": 0}),
        },
        Discovery(dialect=D.LLAMACPP, names=("a", "m")),
    ),
    ("vLLM", VLLM, Discovery(dialect=D.VLLM, names=("q",), context=4096, weights="Qwen/Qwen3-8B")),
    (
        "vLLM with adapters",
        {
            "/v1/models": answer(
                models(
                    {"id": "q", "owned_by": "vllm", "root": "/models/q", "parent": None},
                    {"id": "sql", "owned_by": "vllm", "root": "/models/sql", "parent": "q"},
                )
            )
        },
        Discovery(dialect=D.VLLM, names=("q",)),
    ),
    (
        "SGLang",
        {
            "/v1/models": answer(models({"id": "q", "owned_by": "sglang", "root": "q", "max_model_len": 4096})),
            "/get_model_info": answer({"model_path": "Qwen/Qwen3-8B", "is_generation": True, "weight_version": "7"}),
        },
        Discovery(dialect=D.SGLANG, names=("q",), context=4096, weights="Qwen/Qwen3-8B 7"),
    ),
    (
        "another Berth",
        {"/v1/models": answer(models({"id": "q", "owned_by": "berth", "root": "org/q"}))},
        Discovery(dialect=D.VLLM, names=("q",)),
    ),
    (
        "llama-cpp-python",
        {"/v1/models": answer(models({"id": "t", "owned_by": "me", "permissions": []}), server="uvicorn")},
        Discovery(dialect=D.LLAMACPP_PYTHON, names=("t",), concurrency=1),
    ),
    (
        "mlx_lm.server",
        {
            "/v1/models": answer(models({"id": "/m/tiny"}), server="BaseHTTP/0.6 Python/3.11.7"),
            "/health": answer({"status": "ok"}),
        },
        Discovery(dialect=D.MLX, names=("/m/tiny",)),
    ),
    (
        "transformers serve",
        {
            "/v1/models": answer(models(), server="uvicorn"),
            "/openapi.json": answer({"paths": {"/load_model": {}, "/reset": {}, "/v1/models": {}}}),
        },
        Discovery(dialect=D.TRANSFORMERS),
    ),
    (
        "infinity",
        {"/models": answer(models({"id": "e", "owned_by": "infinity", "stats": {}, "capabilities": ["embed"]}))},
        Discovery(dialect=D.INFINITY, api_path="", names=("e",), batch=2048),
    ),
    (
        "TEI",
        {"/info": answer({"model_id": "e", "model_type": {}, "max_client_batch_size": 32, "max_input_length": 512})},
        Discovery(dialect=D.TEI, names=("e",), context=512, batch=32),
    ),
    (
        "LiteLLM",
        {
            "/v1/models": answer(
                models({"id": "m", "owned_by": "openai"}), x_litellm_version="1.108.7", server="uvicorn"
            )
        },
        Discovery(names=("m",)),
    ),
    (
        "Ollama",
        {"/v1/models": answer(models({"id": "m"}, {"id": "n"})), "/": answer(text="Ollama is running")},
        Discovery(dialect=D.OLLAMA, names=("m", "n")),
    ),
    ("anything", {"/v1/models": answer(models({"id": "m"}))}, Discovery(names=("m",))),
    ("a wrong key", {"/v1/models": answer({"error": "no"}, status=401)}, Discovery()),
    ("no list of models", {}, Discovery()),
]


@pytest.mark.parametrize(("answers", "found"), [pytest.param(*case[1:], id=case[0]) for case in SERVERS])
def test_server_is_what_it_says(answers: dict[str, Answer], found: Discovery) -> None:
    assert identify(lambda path: answers.get(path, NOT_FOUND), "box", ("/v1", ""), "m") == found


@pytest.mark.parametrize("answers", [pytest.param(case[1], id=case[0]) for case in SERVERS])
def test_control_knows_what_may_be_asked(answers: dict[str, Answer]) -> None:
    asked: set[str] = set()

    def get(path: str) -> Answer:
        asked.add(path)
        return answers.get(path, NOT_FOUND)

    identify(get, "box", ("/v1", ""), "m")
    assert asked <= {"/v1/models", "/models", *PATHS}


def test_openais_own_host_is_known_by_its_name() -> None:
    seen = {"/v1/models": answer(models({"id": "gpt", "owned_by": "system"}))}
    assert identify(seen.get, "api.openai.com", ("/v1",), "gpt").dialect is D.OPENAI_CLOUD


def test_silence_is_no_server() -> None:
    assert identify(lambda _path: None, "box", ("", "/v1"), "m") == Discovery(reached=False, api_path="")


MANGLED: list[Callable[[], Any]] = [
    list,
    lambda: "text",
    lambda: {"data": 7},
    lambda: {"data": [7, None, {"id": 7}, {"owned_by": ["x"]}]},
    lambda: {"data": [{"id": "m", "owned_by": "vllm", "root": 7, "max_model_len": "long"}]},
    lambda: {"data": [{"id": "m", "owned_by": "llamacpp", "meta": 7}], "total_slots": -1, "paths": 7},
]


@pytest.mark.parametrize("document", MANGLED)
def test_nonsense_is_no_obstacle(document: Callable[[], Any]) -> None:
    found = identify(lambda _path: answer(document(), server="uvicorn"), "box", ("/v1", ""), "m")
    assert (found.reached, found.context, found.concurrency, found.weights) == (True, None, None, "")


def replica(**fields: Any) -> Replica:
    given: dict[str, Any] = {"served_name": "m", "dialect": D.OPENAI, "detects": True, **fields}
    probe = Probe(path="/health")
    return Replica(
        name="m-attached",
        model="m",
        engine=EngineName.REMOTE,
        task=Task.GENERATE,
        url="http://box",
        ready=probe,
        alive=probe,
        **given,
    )


SAID = Discovery(dialect=D.LLAMACPP, names=("theirs",), context=2048, concurrency=2, weights="box /m")


def test_what_is_configured_counts_first() -> None:
    plain = settle(replica(), SAID)
    assert (plain.dialect, plain.served_name, plain.context, plain.concurrency) == (D.LLAMACPP, "theirs", 2048, 2)
    given = replica(detects=False, served_name="mine", context=512, concurrency=8, weights="same")
    known = settle(given, SAID)
    assert (known.dialect, known.served_name, known.context, known.concurrency) == (D.OPENAI, "mine", 512, 8)
    assert known.weights == "same"


def test_smaller_context_counts() -> None:
    assert settle(replica(context=8192), SAID).context == 2048


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (VLLM, VLLM, True),
        (LLAMACPP, LLAMACPP, True),
        (VLLM, {"/v1/models": answer(models({"id": "q", "owned_by": "vllm", "root": "Qwen/Qwen3-4B"}))}, False),
        (
            {"/v1/models": answer(models({"id": "q", "owned_by": "vllm", "root": "/models/q"}))},
            {"/v1/models": answer(models({"id": "q", "owned_by": "vllm", "root": "/models/q"}))},
            False,
        ),
        ({"/v1/models": answer(models({"id": "m"}))}, {"/v1/models": answer(models({"id": "m"}))}, False),
    ],
)
def test_same_source_in_the_same_dialect_is_the_same_weights(first: Any, second: Any, alike: bool) -> None:
    def seen(name: str, answers: dict[str, Answer]) -> Replica:
        found = identify(lambda path: answers.get(path, NOT_FOUND), "box", ("/v1",), "q")
        return replace(replica(), name=name).as_discovered(settle(replica(), found))

    one, other = seen("m-attached", first), seen("m-attached-2", second)
    assert one.same_weights(other) is alike


def test_path_is_another_on_another_host() -> None:
    weights = {identify(lambda path: LLAMACPP.get(path, NOT_FOUND), host, ("/v1",), "m").weights for host in ("a", "b")}
    assert len(weights) == 2
