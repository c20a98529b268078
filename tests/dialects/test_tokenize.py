from typing import Any

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, InferenceRequest, Json, Operation
from berth.dialects.answers import read_answer
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from tests.fakes.recordings import inference_request, recording

VLLM, SGLANG, TRTLLM, OPENAI = VllmDialect(), SglangDialect(), TrtllmDialect(), OpenaiDialect()
MESSAGES = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}]
CHAT: Json = {"model": "alias", "messages": MESSAGES}


def asked(dialect: Dialect, body: Json, operation: Operation = Operation.TOKENIZE) -> tuple[str, Json]:
    wanted = dialect.request(inference_request(body, operation), "org/m:8b")
    return wanted.path, orjson.loads(wanted.body)


def read(request: InferenceRequest, body: bytes, status: int = 200) -> Json:
    answer = read_answer(request, "m", status, body)
    assert isinstance(answer, EngineResponse)
    document: Json = orjson.loads(answer.body)
    return document


def test_sends_only_prompt_fields() -> None:
    body = {
        **CHAT,
        "tools": TOOLS,
        "tool_choice": "auto",
        "max_tokens": 9,
        "temperature": 0.5,
        "return_token_ids": True,
    }

    assert asked(VLLM, body) == ("/tokenize", {"model": "org/m:8b", "messages": MESSAGES, "tools": TOOLS})
    assert asked(SGLANG, body) == (
        "/v1/tokenize",
        {"model": "org/m-8b", "messages": MESSAGES, "tools": TOOLS, "tool_choice": "auto"},
    )


def test_vllm_gets_documents_and_effort_in_template_options() -> None:
    documents = [{"title": "t", "text": "x"}]
    plain = {**CHAT, "reasoning_effort": "low", "documents": documents, "chat_template_kwargs": {"a": 1}}
    off = {**CHAT, "reasoning_effort": "none"}
    own = {**CHAT, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}

    _, body = asked(VLLM, plain)
    assert body["chat_template_kwargs"] == {
        "a": 1,
        "documents": documents,
        "reasoning_effort": "low",
        "enable_thinking": True,
    }
    assert {"documents", "reasoning_effort"}.isdisjoint(body)
    assert asked(VLLM, off)[1]["chat_template_kwargs"]["enable_thinking"] is False
    assert asked(VLLM, own)[1]["chat_template_kwargs"]["enable_thinking"] is False


@pytest.mark.parametrize("dialect", [VLLM, SGLANG], ids=["vllm", "sglang"])
def test_earlier_reasoning_has_the_engines_field_name(dialect: Dialect) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "x", "reasoning": "y", "reasoning_content": "y"}]
    _, body = asked(dialect, {"model": "m", "messages": messages})

    name = "reasoning" if dialect is VLLM else "reasoning_content"
    assert body["messages"][1] == {"role": "assistant", "content": "x", name: "y"}


def test_continued_message_has_no_generation_prompt() -> None:
    body = {**CHAT, "continue_final_message": True}

    assert asked(VLLM, body)[1]["add_generation_prompt"] is False
    assert "add_generation_prompt" not in asked(SGLANG, {**body, "add_generation_prompt": False})[1]
    assert "add_generation_prompt" not in asked(SGLANG, {**CHAT, "add_generation_prompt": True})[1]
    assert asked(SGLANG, {**CHAT, "add_generation_prompt": False})[1]["add_generation_prompt"] is False


@pytest.mark.parametrize("dialect", [TRTLLM, OPENAI], ids=["trtllm", "openai"])
def test_counts_tokens_by_generating_one(dialect: Dialect) -> None:
    path, body = asked(dialect, {**CHAT, "tools": TOOLS, "temperature": 2, "stream": False})

    assert path == "/v1/chat/completions"
    assert body == {"model": "org/m:8b", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 1}
    assert asked(dialect, {"model": "m", "prompt": "x"}) == (
        "/v1/completions",
        {"model": "org/m:8b", "prompt": "x", "max_tokens": 1},
    )


REJECTED: dict[str, tuple[Dialect, Operation, Json, str]] = {
    "ids from a count": (TRTLLM, Operation.TOKENIZE, {"prompt": "x", "return_token_ids": True}, "return_token_ids"),
    "texts from a count": (OPENAI, Operation.TOKENIZE, {"prompt": "x", "return_token_strs": True}, "return_token_strs"),
    "texts from SGLang": (SGLANG, Operation.TOKENIZE, {"prompt": "x", "return_token_strs": True}, "return_token_strs"),
    "text from TensorRT-LLM": (TRTLLM, Operation.DETOKENIZE, {"tokens": [1]}, "tokens"),
    "text from OpenAI": (OPENAI, Operation.DETOKENIZE, {"tokens": [1]}, "tokens"),
}


@pytest.mark.parametrize(("dialect", "operation", "body", "param"), REJECTED.values(), ids=REJECTED)
def test_unsupported_details_are_rejected(dialect: Dialect, operation: Operation, body: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        dialect.request(inference_request({"model": "m", **body}, operation), "m")

    assert rejected.value.param == param


def test_detokenize_keeps_special_tokens() -> None:
    body = {"model": "m", "tokens": [1, 2]}

    assert asked(VLLM, body, Operation.DETOKENIZE) == ("/detokenize", {"model": "org/m:8b", "tokens": [1, 2]})
    assert asked(SGLANG, body, Operation.DETOKENIZE) == (
        "/v1/detokenize",
        {"model": "org/m-8b", "tokens": [1, 2], "skip_special_tokens": False},
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vllm/base/tokenize_chat", 12),
        ("vllm/base/tokenize_prompt", 3),
        ("vllm/pool/tokenize", 2),
        ("sglang/base/tokenize_chat", 19),
        ("sglang/base/tokenize", 2),
    ],
)
def test_reads_recorded_tokens(name: str, count: int) -> None:
    reported = read(inference_request({"prompt": "x"}, Operation.TOKENIZE), recording(name).answer)

    assert reported["count"] == len(reported["tokens"]) == count
    assert reported["max_model_len"] == 2048
    assert "token_strs" not in reported


def test_keeps_the_texts_of_tokens() -> None:
    reported = read(inference_request({"prompt": "x"}, Operation.TOKENIZE), recording("vllm/base/tokenize_strs").answer)

    assert reported["token_strs"] == ["Hell", "o", "Ġyou"]


@pytest.mark.parametrize(
    "name", ["vllm/base/chat_basic", "sglang/base/chat_basic", "trtllm/base/chat_basic", "vllm/base/comp_basic"]
)
def test_count_from_usage_reports_this_usage(name: str) -> None:
    seen = recording(name)
    answer = read_answer(inference_request({"prompt": "x"}, Operation.TOKENIZE), "m", 200, seen.answer)

    assert isinstance(answer, EngineResponse)
    usage = orjson.loads(seen.answer)["usage"]
    assert orjson.loads(answer.body) == {"count": usage["prompt_tokens"], "tokens": None, "max_model_len": None}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def test_engines_tokenizer_reports_no_usage() -> None:
    answer = read_answer(
        inference_request({"prompt": "x"}, Operation.TOKENIZE), "m", 200, recording("vllm/base/tokenize_prompt").answer
    )

    assert isinstance(answer, EngineResponse)
    assert answer.usage.prompt_tokens == 0


@pytest.mark.parametrize("name", ["vllm/base/detokenize", "sglang/base/detokenize"])
def test_reads_recorded_text(name: str) -> None:
    reported = read(inference_request({"tokens": []}, Operation.DETOKENIZE), recording(name).answer)

    assert set(reported) == {"prompt"}
    assert reported["prompt"] in {"Every morning the", "#$%"}


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.TOKENIZE, {"count": [1, 2]}),
        (Operation.TOKENIZE, {"usage": {"prompt_tokens": None}}),
        (Operation.TOKENIZE, {"usage": {}}),
        (Operation.DETOKENIZE, {"text": ["a"]}),
        (Operation.DETOKENIZE, {"prompt": None}),
    ],
)
def test_invalid_response_is_an_engine_failure(operation: Operation, body: Any) -> None:
    failure = read_answer(inference_request({"model": "m"}, operation), "m", 200, orjson.dumps(body))

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.RERANK, Operation.CLASSIFY])
def test_missing_endpoint_is_unsupported(operation: Operation, status: int) -> None:
    failure = read_answer(inference_request({"model": "m"}, operation), "m", status, b'{"detail":"Not Found"}')

    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status) == (FailureKind.UNSUPPORTED, 400)
