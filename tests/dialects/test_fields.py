"""Each field of each engine, at each engine: sent, said otherwise, dropped and named, or a reason to ask another."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.fields import DEFAULTS, EVERY_FIELD, NO_EFFECT, OPENAI, READ, SPELLED
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.plan import DialectName

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
ANY_VALUE = 0.123  # asks for something, whatever the field


def unread(*, dropped: bool) -> list[Any]:
    return list(_unread(dropped=dropped))


def _unread(*, dropped: bool) -> Iterator[Any]:
    for dialect, operations in READ.items():
        for operation, names in operations.items():
            for name in sorted(EVERY_FIELD - names - SPELLED[dialect].keys()):
                if (name in NO_EFFECT) == dropped:
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
    """TensorRT-LLM would reject it, the others ignore it, and a later version may read it."""
    sent, ignored = ask(dialect, operation, no_such_field=1)

    assert ignored == ("no_such_field",)
    assert ("no_such_field" in sent) == (dialect is not DialectName.TRTLLM)


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
        assert READ[DialectName.VLLM][operation] - LATER == fields_of(classes, name), operation


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
