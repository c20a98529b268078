"""The exchanges with real engines in tests/fixtures, as data."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.canonical import InferenceRequest, Operation

FIXTURES = Path(__file__).parent.parent / "fixtures"

OPERATIONS = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETION,
    "/v1/embeddings": Operation.EMBEDDING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    name: str  # "vllm/base/chat_stream"
    method: str
    path: str
    headers: dict[str, str]
    body: Any  # JSON where it was JSON, else text, else None
    status: int
    answer_headers: dict[str, str]
    answer: bytes

    @property
    def is_stream(self) -> bool:
        return self.answer.startswith((b"data:", b": "))

    def request(self) -> InferenceRequest:
        """The request as Berth would have had it, without `tool_choice`: forced calls were recorded without `strict`,
        with arguments of any kind, which Berth would reject.
        """
        body = {name: value for name, value in self.body.items() if name != "tool_choice"}
        return inference_request(body, OPERATIONS[self.path])


def inference_request(body: dict[str, Any], operation: Operation = Operation.CHAT) -> InferenceRequest:
    options = body.get("stream_options") or {}
    return InferenceRequest(
        operation=operation,
        model=body.get("model", "tiny"),
        body=body,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
    )


def recording(name: str) -> Recording:
    document = json.loads((FIXTURES / f"{name}.json").read_text())
    request, response = document["request"], document["response"]
    return Recording(
        name=name,
        method=request["method"],
        path=request["path"],
        headers=request["headers"],
        body=request["body"],
        status=response["status"],
        answer_headers=response["headers"],
        answer=response["body"].encode(),
    )


def recordings(engine: str) -> list[Recording]:
    """All of one engine."""
    files = sorted((FIXTURES / engine).glob("*/*.json"))
    return [recording(str(file.relative_to(FIXTURES).with_suffix(""))) for file in files]
