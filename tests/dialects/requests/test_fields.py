"""Each field of each engine, at each engine: sent, said otherwise, dropped and named, or a reason to ask another."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.openai import OpenaiDialect
from berth.dialects.registry import dialect_of
from berth.dialects.requests.engine_fields import ENGINE_FIELDS
from berth.dialects.requests.fields import (
    CLIENT,
    CONTROL,
    DEFAULTS,
    EVERY_FIELD,
    NO_EFFECT,
    OPENAI,
    READ,
    RESTRICTED,
    SPELLED,
)
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.errors import InvalidRequestError
from berth.plan import DialectName
from tests.fakes.plans import make_replica

ROOT = Path(__file__).resolve().parents[2]
DIALECTS: dict[DialectName, Dialect] = {
    DialectName.VLLM: VllmDialect(),
    DialectName.SGLANG: SglangDialect(),
    DialectName.TRTLLM: TrtllmDialect(),
}
BODIES: dict[Operation, Json] = {
    Operation.CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    Operation.COMPLETION: {"model": "m", "prompt": "Hello"},
    Operation.EMBEDDING: {"model": "m", "input": "Hello"},
}
LEFT_OUT = {"tool_choice", "stream_options"}  # without tools or a stream they request nothing
ANY_VALUE = 0.123  # asks for something, whatever the field


def unread(*, dropped: bool) -> list[Any]:
    return list(_unread(dropped=dropped))


def _unread(*, dropped: bool) -> Iterator[Any]:
    for dialect, operations in READ.items():
        for operation, names in operations.items():
            for name in sorted(EVERY_FIELD - names - SPELLED[dialect].keys() - RESTRICTED.keys() - LEFT_OUT):
                if (name in NO_EFFECT or name in CONTROL) == dropped:
                    yield pytest.param(dialect, operation, name, id=f"{dialect}-{operation}-{name}")


def ask(dialect: DialectName, operation: Operation, **fields: Any) -> tuple[Json, tuple[str, ...]]:
    body = {**BODIES[operation], **fields}
    wanted = DIALECTS[dialect].request(InferenceRequest(operation=operation, model="m", body=body), "m")
    return orjson.loads(wanted.body), wanted.ignored


@pytest.mark.parametrize(("dialect", "operation", "name"), unread(dropped=True))
def test_drops_and_lists_fields_without_effect(dialect: DialectName, operation: Operation, name: str) -> None:
    sent, ignored = ask(dialect, operation, **{name: ANY_VALUE})

    assert name not in sent
    assert ignored == (name,)


@pytest.mark.parametrize(("dialect", "operation", "name"), unread(dropped=False))
def test_unread_field_that_affects_the_response_is_unsupported(
    dialect: DialectName, operation: Operation, name: str
) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        ask(dialect, operation, **{name: ANY_VALUE})

    assert rejected.value.param == name


@pytest.mark.parametrize(("dialect", "operation", "name"), unread(dropped=False))
def test_default_values_are_accepted(dialect: DialectName, operation: Operation, name: str) -> None:
    sent, ignored = ask(dialect, operation, **{name: DEFAULTS.get(name)})

    assert name not in sent
    assert ignored == ()


@pytest.mark.parametrize(
    ("dialect", "operation"), [(dialect, operation) for dialect, operations in READ.items() for operation in operations]
)
def test_lists_unknown_fields(dialect: DialectName, operation: Operation) -> None:
    """They are not sent: TensorRT-LLM would reject them, and they may control a later version of the others."""
    sent, ignored = ask(dialect, operation, no_such_field=1)

    assert ignored == ("no_such_field",)
    assert "no_such_field" not in sent


def test_every_field_of_every_engine_is_of_one_class() -> None:
    """A field of a later version must be put into one of them: who may set it?"""
    every = EVERY_FIELD - OPENAI

    assert every == CLIENT | CONTROL.keys() | RESTRICTED.keys()
    assert not CLIENT & CONTROL.keys()
    assert not CLIENT & RESTRICTED.keys()
    assert not CONTROL.keys() & RESTRICTED.keys()
    assert not (NO_EFFECT.keys() | SPELLED[DialectName.VLLM].keys()) & CONTROL.keys()


EVERY_DIALECT = (*DIALECTS.values(), OpenaiDialect())
# Fields of further servers and of other versions.
FOREIGN = (
    *("conversation_params", "data_parallel_rank_decode", "disagg_request_id", "dp_rank", "ec_transfer_config", "lora"),
    *("id_slot", "image_io_kwargs", "logits_processors", "lora_name", "llm_request_id", "custom_logits_processors"),
    *("prefill_rank", "session_affinity", "trace_rid", "engine_xargs"),
)


@pytest.mark.parametrize("name", sorted({*CONTROL, *FOREIGN}))
@pytest.mark.parametrize(
    ("dialect", "operation"),
    [
        pytest.param(dialect, operation, id=f"{dialect.name}-{operation}")
        for dialect in EVERY_DIALECT
        for operation in ENGINE_FIELDS.get(dialect.name, BODIES)
    ],
)
def test_control_fields_reach_no_engine(dialect: OpenaiDialect, operation: Operation, name: str) -> None:
    request = InferenceRequest(operation=operation, model="m", body={**BODIES[operation], name: {"a": 1}})
    upstream = dialect.request(request, "m")

    assert name not in orjson.loads(upstream.body)
    assert upstream.ignored == (name,)


@pytest.mark.parametrize("name", sorted(RESTRICTED))
@pytest.mark.parametrize("dialect", EVERY_DIALECT, ids=lambda dialect: dialect.name)
def test_restricted_fields_are_rejected(dialect: OpenaiDialect, name: str) -> None:
    request = InferenceRequest(operation=Operation.CHAT, model="m", body={**BODIES[Operation.CHAT], name: [1]})
    with pytest.raises(InvalidRequestError, match="pass_fields") as rejected:
        dialect.request(request, "m")

    assert rejected.value.param == name


def passing(dialect: OpenaiDialect, *names: str) -> OpenaiDialect:
    passes = dialect_of(replace(make_replica(launch=None), dialect=dialect.name, pass_fields=names))
    assert isinstance(passes, type(dialect))
    return passes


@pytest.mark.parametrize("dialect", EVERY_DIALECT, ids=lambda dialect: dialect.name)
def test_the_operator_lets_fields_pass(dialect: OpenaiDialect) -> None:
    """Those that the engine reads, and those that Berth does not know."""
    names = (*CONTROL, *RESTRICTED, "no_such_field", "lora")
    body = {**BODIES[Operation.CHAT], **dict.fromkeys(names, 1)}
    if dialect.name is not DialectName.OPENAI:  # what no engine of this kind reads is input that would be lost
        foreign = RESTRICTED.keys() - ENGINE_FIELDS[dialect.name][Operation.CHAT]
        body = {name: value for name, value in body.items() if name not in foreign}
    upstream = passing(dialect, *names).request(InferenceRequest(operation=Operation.CHAT, model="m", body=body), "m")
    sent = orjson.loads(upstream.body)

    read = ENGINE_FIELDS.get(dialect.name, {}).get(Operation.CHAT, body.keys())
    assert {"no_such_field", "lora"} <= sent.keys()
    assert sent.keys() - {"no_such_field", "lora"} == (body.keys() & read) - {"no_such_field", "lora"}
    assert set(upstream.ignored) == body.keys() - sent.keys()


@pytest.mark.parametrize("dialect", EVERY_DIALECT, ids=lambda dialect: dialect.name)
def test_a_template_gets_settings_and_its_renderer_no_arguments(dialect: OpenaiDialect) -> None:
    settings = {"enable_thinking": False, "chat_template": "{{ 1 }}", "tokenize": False, "tools": []}
    body = {**BODIES[Operation.CHAT], "chat_template_kwargs": settings}
    upstream = dialect.request(InferenceRequest(operation=Operation.CHAT, model="m", body=body), "m")

    assert orjson.loads(upstream.body)["chat_template_kwargs"] == {"enable_thinking": False}
    assert upstream.ignored == tuple(f"chat_template_kwargs.{name}" for name in ("chat_template", "tokenize", "tools"))
    assert "chat_template" in settings  # the request stays as it is


@pytest.mark.parametrize("dialect", [DIALECTS[DialectName.VLLM], DIALECTS[DialectName.SGLANG]], ids=["vllm", "sglang"])
def test_tokenize_lists_control_fields(dialect: Dialect) -> None:
    body = {**BODIES[Operation.CHAT], "chat_template": "{{ 1 }}"}
    upstream = dialect.request(InferenceRequest(operation=Operation.TOKENIZE, model="m", body=body), "m")

    assert "chat_template" not in orjson.loads(upstream.body)
    assert upstream.ignored == ("chat_template",)


TRANSLATED: list[tuple[DialectName, Json, Json]] = [
    (DialectName.VLLM, {"no_stop_trim": True}, {"include_stop_str_in_output": True}),
    (DialectName.VLLM, {"regex": "a"}, {"structured_outputs": {"regex": "a"}}),
    (DialectName.SGLANG, {"include_stop_str_in_output": True}, {"no_stop_trim": True}),
    (
        DialectName.SGLANG,
        {"continue_final_message": True, "add_generation_prompt": False},
        {"continue_final_message": True},
    ),
    (DialectName.SGLANG, {"structured_outputs": {"regex": "a"}}, {"regex": "a"}),
    (DialectName.TRTLLM, {"no_stop_trim": True}, {"include_stop_str_in_output": True}),
    (DialectName.TRTLLM, {"max_completion_tokens": 3}, {"max_tokens": 3}),
    (DialectName.TRTLLM, {"guided_regex": "a"}, {"response_format": {"type": "regex", "regex": "a"}}),
]


@pytest.mark.parametrize(("dialect", "given", "expected"), TRANSLATED)
def test_translates_fields_with_other_names(dialect: DialectName, given: Json, expected: Json) -> None:
    sent, ignored = ask(dialect, Operation.CHAT, **given)

    assert sent == {**BODIES[Operation.CHAT], **expected}
    assert ignored == ()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_web_search_is_not_left_out(dialect: DialectName) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        ask(dialect, Operation.CHAT, web_search_options={})
    assert rejected.value.param == "web_search_options"


def test_sglang_requires_a_generation_prompt() -> None:
    with pytest.raises(UnsupportedError):
        ask(DialectName.SGLANG, Operation.CHAT, add_generation_prompt=False)


def test_openai_fields_match_its_client() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase  # noqa: PLC0415 - slow to import

    names = set(CompletionCreateParamsBase.__annotations__)
    assert names - set().union(*(READ[dialect][Operation.CHAT] for dialect in READ)) == OPENAI


MODELS = {
    Operation.CHAT: "ChatCompletionRequest",
    Operation.COMPLETION: "CompletionRequest",
    Operation.EMBEDDING: "EmbeddingCompletionRequest",
}
LATER = {"return_weight_versions"}  # in 0.33.0, which has no build for the CPU yet


@pytest.mark.engine
def test_vllm_fields_match_its_source() -> None:
    found = sorted((ROOT / ".engines/vllm").glob("lib/python3*/site-packages/vllm/entrypoints"))
    if not found:
        pytest.skip("vLLM is not installed: make engine-vllm")
    files = [*found[0].glob("openai/**/protocol.py"), *found[0].glob("pooling/**/protocol.py")]
    classes = {
        node.name: node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)
    }
    for operation, name in MODELS.items():
        assert ENGINE_FIELDS[DialectName.VLLM][operation] - LATER == fields_of(classes, name), operation


def fields_of(classes: dict[str, ast.ClassDef], name: str) -> set[str]:
    """Those of the class, and of those that it is made of; without private ones."""
    if name not in classes:
        return set()
    own = {
        node.target.id
        for node in classes[name].body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(node.annotation)
    }
    return own.union(*(fields_of(classes, ast.unparse(base).partition("[")[0]) for base in classes[name].bases))
