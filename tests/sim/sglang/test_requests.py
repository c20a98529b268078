from typing import Any

import pytest

from berth.sim.body_validation import InvalidError, RejectionError
from berth.sim.dialect import CrashError, Route
from berth.sim.sglang.requests import SglangParser
from tests.sim.harness import CHAT, setup


def parser(**changes: Any) -> SglangParser:
    return SglangParser(setup("sglang", context=64, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "base:adapter"}, "LoRA adapter 'adapter' was requested, but LoRA is not enabled"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            'Unsupported type "x"',
        ),
        ({"regex": "[("}, "Failed to compile regex grammar"),
        ({"max_tokens": 64}, "Requested token count exceeds the model's maximum context length of 64 tokens"),
        ({"messages": [{"role": "user", "content": "word " * 99}]}, r"is longer than the model's context length \(64"),
    ],
)
def test_rejects_chats_with_the_engines_messages(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RejectionError, match=message):
        parser().parse_generation(Route.CHAT, {**CHAT, **changes}, {})


@pytest.mark.parametrize("model", ["anything", "trailing:", None])
def test_accepts_any_model_name(model: str | None) -> None:
    assert parser().parse_generation(Route.CHAT, {**CHAT, "model": model}, {}).model == (model or "default")


@pytest.mark.parametrize(
    ("route", "body", "changes"),
    [
        (Route.COMPLETION, {"prompt": [99999]}, {}),
        (Route.COMPLETION, {"prompt": [[1], [-1]]}, {}),
        (Route.CHAT, {**CHAT, "logprobs": True, "top_logprobs": 400}, {"vocab_size": 300}),
        (Route.CHAT, CHAT, {"task": "embed"}),
    ],
)
def test_some_requests_crash_it(route: Route, body: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(CrashError):
        parser(**changes).parse_generation(route, body, {})


def test_embedding_an_unknown_token_crashes_it() -> None:
    with pytest.raises(CrashError):
        parser(task="embed").parse_embedding({"input": [99999]})


def test_continues_an_assistant_message_only_on_request() -> None:
    body = {"messages": [*CHAT["messages"], {"role": "assistant", "content": "The night"}]}
    assert parser().parse_generation(Route.CHAT, body, {}).continues == ("",)
    assert parser().parse_generation(Route.CHAT, {**body, "continue_final_message": True}, {}).continues == (
        "The night",
    )
    assert parser().parse_generation(Route.CHAT, {**CHAT, "continue_final_message": True}, {}).continues == ("",)


def test_rejects_unknown_parts_and_roles() -> None:
    for message in ({"role": "wizard", "content": "x"}, {"role": "user", "content": [{"type": "zzz"}]}):
        with pytest.raises(InvalidError):
            parser().parse_generation(Route.CHAT, {"messages": [message]}, {})
