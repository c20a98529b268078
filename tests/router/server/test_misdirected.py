"""A box that has only a rank of a model says which box serves it, in the error form of every client API."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from berth.plan import Ranks
from berth.router.server.api_routes import formats
from berth.state import ReplicaStatus
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.responses import Memory
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state

HEAD = "http://10.0.0.1:8000"
PATHS = sorted(formats(Memory()))
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
TEXT = {"input": "Hello"}
PROMPT = {"prompt": "Hello"}
RANKED = {"query": "a", "documents": ["b"]}
BODIES: dict[str, dict[str, Any]] = {
    "/": {"inputs": "Hello"},
    "/api/chat": CHAT,
    "/api/embed": TEXT,
    "/api/embeddings": PROMPT,
    "/api/generate": PROMPT,
    "/classify": TEXT,
    "/detokenize": {"tokens": [1]},
    "/generate": {"inputs": "Hello"},
    "/generate_stream": {"inputs": "Hello"},
    "/rerank": RANKED,
    "/score": {"text_1": "a", "text_2": "b"},
    "/tokenize": PROMPT,
    "/v1/audio/speech": TEXT,
    "/v1/chat/completions": CHAT,
    "/v1/completions": PROMPT,
    "/v1/embeddings": TEXT,
    "/v1/images/generations": PROMPT,
    "/v1/messages": {**CHAT, "max_tokens": 1},
    "/v1/messages/count_tokens": CHAT,
    "/v1/moderations": TEXT,
    "/v1/responses": TEXT,
    "/v1/responses/input_tokens": TEXT,
    "/v2/rerank": RANKED,
}
BODIES |= {f"/v1{path}": BODIES[path] for path in ("/classify", "/detokenize", "/rerank", "/score", "/tokenize")}
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations")
STREAMS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")


def of_openai(document: Any) -> str:
    error = document["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "misdirected_request")
    return str(error["message"])


def of_anthropic(document: Any) -> str:
    assert (document["type"], document["error"]["type"]) == ("error", "invalid_request_error")
    return str(document["error"]["message"])


def of_ollama(document: Any) -> str:
    assert isinstance(document["error"], str)
    return str(document["error"])


def of_tgi(document: Any) -> str:
    assert document["error_type"]
    return str(document["error"])


def of_rerankers(document: Any) -> str:
    """Those of Cohere, Jina and TEI in one."""
    assert document["message"] == document["detail"] == document["error"]
    assert (document["error_type"], document["code"]) == ("validation", "misdirected_request")
    return str(document["message"])


def form_of(path: str) -> Callable[[Any], str]:
    """OpenAI's, which vLLM's own endpoints have too, if no other."""
    if path.startswith("/v1/messages"):
        return of_anthropic
    if path.startswith("/api/"):
        return of_ollama
    if path.endswith("/rerank"):
        return of_rerankers
    return of_tgi if path in ("/", "/generate", "/generate_stream") else of_openai


@pytest.fixture(scope="module")
def follower() -> Iterator[RouterProcess]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    ranks = Ranks(nodes=2, rank=1, head="10.0.0.1", own="10.0.0.2", port=1, interface="eth0", url=HEAD)
    one = replace(replica("big-vllm", "http://127.0.0.1:1"), ranks=ranks)
    plan = make_plan(run_dir, [one])
    publish(plan, replica_state(one.name, ReplicaStatus.READY))
    router = RouterProcess(plan)
    try:
        router.await_answer()
        yield router
    finally:
        router.end()
        shutil.rmtree(run_dir)


def post(follower: RouterProcess, path: str, **fields: Any) -> httpx.Response:
    with httpx.Client(base_url=follower.url, trust_env=False, verify=NO_AUTHORITIES, timeout=60) as http:
        if path in FORMS:
            return http.post(path, data={"model": "big"}, files={"file": ("a.wav", b"RIFF")})
        return http.post(path, json={"model": "big", **BODIES[path], **fields})


@pytest.mark.parametrize("path", PATHS)
def test_every_api_names_the_head_in_its_own_form(follower: RouterProcess, path: str) -> None:
    answer = post(follower, path)
    assert answer.status_code == 421, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert form_of(path)(answer.json()) == (
        f"The model 'big' is served by {HEAD}: send its requests there, here is a part of it."
    )


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_is_asked_for_begins_with_the_same_error(follower: RouterProcess, path: str) -> None:
    answer = post(follower, path, stream=True)
    assert answer.status_code == 421, answer.text
    assert HEAD in form_of(path)(answer.json())


def test_a_model_in_the_path_is_named_too(follower: RouterProcess) -> None:
    with httpx.Client(base_url=follower.url, trust_env=False, verify=NO_AUTHORITIES, timeout=60) as http:
        answer = http.post("/models/big/generate", json={"inputs": "Hello"})
    assert answer.status_code == 421, answer.text
    assert HEAD in of_tgi(answer.json())
