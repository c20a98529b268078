"""Hugging Face's official client as the judge of TGI's API: over simulated engines of every dialect, and over fakes
that misbehave.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import (
    GenerationError,
    HfHubHTTPError,
    IncompleteGenerationError,
    ValidationError,
)

from berth.plan import DialectName, Task
from berth.sse import DONE
from tests.apis.tgi.judge import heard, told
from tests.fakes.blocked_requests import BlockedRequests
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.sims import GENERATING, box_of
from tests.fakes.upstream import (
    CLOSE,
    LAST_CHUNK,
    FakeUpstream,
    Step,
    chat_answer,
    chunk,
    error_answer,
    sse,
    stream_head,
)

PROMPT = "The night train left"


@pytest.fixture(scope="module")
def box() -> Iterator[RouterProcess]:
    with box_of(Task.GENERATE) as box:
        yield box


@pytest.fixture(scope="module")
def lonely() -> Iterator[RouterProcess]:
    """One model that generates, and one that does not."""
    with box_of(Task.GENERATE, Task.EMBED, dialects=(DialectName.VLLM,)) as box:
        yield box


def client(url: str) -> InferenceClient:
    return InferenceClient(base_url=url, timeout=20)


@pytest.mark.parametrize("model", GENERATING)
def test_generate_streamed_or_not(box: RouterProcess, model: str) -> None:
    hub = client(f"{box.url}/models/{model}")

    whole = hub.text_generation(PROMPT, max_new_tokens=9)
    parts = list(hub.text_generation(PROMPT, max_new_tokens=9, stream=True))
    full = hub.text_generation(PROMPT, max_new_tokens=9, return_full_text=True)

    assert "".join(parts) == whole != ""
    assert full == PROMPT + whole


@pytest.mark.parametrize("model", GENERATING)
def test_details_streamed_or_not(box: RouterProcess, model: str) -> None:
    hub = client(f"{box.url}/models/{model}")
    whole = hub.text_generation(PROMPT, max_new_tokens=5, details=True)
    parts = list(hub.text_generation(PROMPT, max_new_tokens=5, details=True, stream=True))

    assert whole.details is not None
    assert (whole.details.finish_reason, whole.details.generated_tokens) == ("length", 5)
    assert "".join(token.text for token in whole.details.tokens) == whole.generated_text
    end = parts[-1]
    assert end.generated_text == "".join(part.token.text for part in parts) == whole.generated_text
    assert end.details is not None
    assert (end.details.finish_reason, end.details.generated_tokens) == ("length", 5)
    assert end.details.input_length > 0


@pytest.mark.parametrize("model", GENERATING)
def test_output_matches_the_grammar(box: RouterProcess, model: str) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    grammar: Any = {"type": "json", "value": schema}

    text = client(f"{box.url}/models/{model}").text_generation(PROMPT, grammar=grammar, max_new_tokens=50)

    assert text.startswith('{"city":')


def test_only_generating_model_needs_no_name(lonely: RouterProcess) -> None:
    hub = client(lonely.url)  # it ends its streams when nobody knows it any more
    parts = list(hub.text_generation(PROMPT, max_new_tokens=3, stream=True))
    info = httpx.get(f"{lonely.url}/info", trust_env=False).json()

    assert "".join(parts)
    assert (info["model_id"], info["max_best_of"]) == ("vllm", 1)


def test_tgis_own_paths_respond(box: RouterProcess) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}, "model": "vllm"}
    with httpx.Client(base_url=box.url, trust_env=False, timeout=20) as http:
        whole = http.post("/generate", json=body)
        stream = http.post("/generate_stream", json=body)
        nobody = http.post("/generate", json={"inputs": PROMPT})
        twice = http.get("/info", params={"model": "sglang"})

    assert set(whole.json()) == {"generated_text"}
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text.count("data:") == 3
    assert (nobody.status_code, nobody.json()["error_type"]) == (404, "validation")
    assert "3 models support this request" in nobody.json()["error"]
    assert twice.json()["model_id"] == "sglang"


def test_rejected_parameter_is_a_validation_error(box: RouterProcess) -> None:
    with pytest.raises((ValidationError, HfHubHTTPError), match="typical_p"):
        client(f"{box.url}/models/vllm").text_generation(PROMPT, typical_p=0.5)


def text_frame(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return chunk(sse({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "solo", "choices": [choice]}))


@pytest.mark.parametrize("end", [(CLOSE,), (LAST_CHUNK,), (chunk(sse({"error": {"message": "boom"}})), LAST_CHUNK)])
def test_broken_stream_raises_and_never_looks_complete(router_fixture: RouterFixture, end: tuple[Step, ...]) -> None:
    begun = threading.Event()
    router_fixture.first.answers(stream_head(), text_frame("a"), begun, *end)
    hub = client(f"{router_fixture.url}/models/solo")
    stream = hub.text_generation(PROMPT, stream=True)
    assert next(iter(stream)) == "a"
    begun.set()

    with pytest.raises(IncompleteGenerationError, match="incomplete"):
        next(iter(stream))


def test_engine_failure_is_a_generation_error(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(error_answer("boom", status=500))

    with pytest.raises((GenerationError, HfHubHTTPError), match="boom"):
        client(f"{router_fixture.url}/models/solo").text_generation(PROMPT)


@pytest.mark.slow
def test_queued_stream_gets_comments_that_clients_ignore(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with FakeUpstream() as engine:
        plan = make_plan(
            str(tmp_path_factory.mktemp("br")),
            [replica("one-a", engine.url, concurrency=1)],
            limits=replace(LIMITS, queue_timeout_s=20),
        )
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        with BlockedRequests(router.url, [engine]) as blocked, httpx.Client(base_url=router.url, timeout=30) as http:
            engine.answers(stream_head(), text_frame("a"), text_frame("b", "stop"), chunk(DONE), LAST_CHUNK)
            engine.answers_once(blocked.go, chat_answer())
            blocked.send_and_wait("one")
            with http.stream("POST", "/generate_stream", json={"inputs": PROMPT}) as stream:
                parts = stream.iter_raw()
                first = next(parts)
                blocked.go.set()
                rest = b"".join(parts)
        router.end()

    assert first.startswith(b": ")
    assert told(heard(first + rest)) == {"text": "ab", "generated_text": "ab"}


@pytest.mark.parametrize("model", GENERATING)
def test_path_of_a_model_serves_every_api(box: RouterProcess, model: str) -> None:
    """Hugging Face's client appends /v1/chat/completions to the URL of a model, and sends a dummy as its name."""
    hub = client(f"{box.url}/models/{model}")
    messages = [{"role": "user", "content": PROMPT}]

    said = hub.chat_completion(messages, max_tokens=5)
    parts = list(hub.chat_completion(messages, max_tokens=5, stream=True))

    assert said.model == model
    texts = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert said.choices[0].message.content == "".join(texts)
    with httpx.Client(base_url=f"{box.url}/models/{model}", trust_env=False) as http:
        named = {"model": "dummy", "messages": messages, "max_tokens": 5, "stream": False}
        assert http.post("/v1/messages", json=named).json()["model"] == model
        assert http.post("/api/chat", json=named).json()["model"] == model
        assert http.post("/v1/responses", json={"model": "dummy", "input": PROMPT}).json()["model"] == model
        assert http.get("/info").json()["model_id"] == model
        assert http.get("/health").status_code == 200


def test_info_of_the_model_in_the_header(box: RouterProcess) -> None:
    with httpx.Client(base_url=box.url, trust_env=False) as http:
        assert http.get("/info", headers={"x-berth-model": "sglang"}).json()["model_id"] == "sglang"
        assert http.get("/info").status_code == 404
        assert http.get("/models/nothing/health").status_code == 404
