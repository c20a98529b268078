"""Python code of a checkpoint runs only where the user allows it."""

from dataclasses import replace

import pytest

from berth.boot.catalogue.lookup import Catalogue
from berth.boot.catalogue.schema import document
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.remote_code import needed_parts, trusted
from berth.errors import ConfigError
from berth.plan import EngineName, Plan
from tests.fakes.machine import QWEN_8B, gpu, host_info

COMMIT = "c" * 40
OWN = replace(QWEN_8B, model_type="novel", own_config=True, commit=COMMIT)
VLLM = EngineSpec(engine=EngineName.VLLM)
CHAT = ModelSpec(name="chat", source=OWN.source, engines=(VLLM,))
TRUSTING = replace(CHAT, engines=(replace(VLLM, args=("--trust-remote-code",)),))


def host(info: ModelInfo, *, known: bool | None, tokenizer: bool | None = None) -> HostInfo:
    return replace(
        host_info(gpu(), describe=lambda _spec: info),
        knows_type=lambda _home, _type: known,
        knows_tokenizer=lambda _home, _type, _class: tokenizer,
    )


def planned(spec: ModelSpec, info: ModelInfo, *, known: bool | None = False) -> Plan:
    return make_plan(Settings(models=(spec,)), host(info, known=known))


def test_a_model_that_needs_its_own_code_is_refused_with_the_line_that_allows_it() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(CHAT, OWN)
    (problem,) = caught.value.problems
    assert problem.variable == "BERTH_MODELS: chat.source"
    assert "has no code for its configuration: it would run the checkpoint's own" in problem.reason
    (spec,) = parse_models(problem.example.partition("=")[2].strip("'"))
    assert (spec.source, spec.revision) == (OWN.source, COMMIT)
    options = spec.options[EngineName.VLLM]
    allowed = replace(CHAT, revision=spec.revision, engines=(replace(VLLM, args=options.args),))
    assert planned(allowed, OWN).models[0].revision == COMMIT


@pytest.mark.parametrize(
    ("info", "known", "tokenizer", "parts"),
    [
        (OWN, False, None, ("configuration",)),
        (OWN, True, None, ()),
        (OWN, None, None, ()),  # its code cannot be read: the engine decides
        (replace(OWN, own_tokenizer="NovelTokenizer"), False, False, ("configuration", "tokenizer")),
        (replace(OWN, own_tokenizer="NovelTokenizer"), True, False, ("tokenizer",)),
        (replace(OWN, own_config=False, own_tokenizer="NovelTokenizer"), False, True, ()),
        (replace(OWN, own_config=False), False, False, ()),
    ],
)
def test_only_what_the_engine_does_not_know_is_needed(
    info: ModelInfo, known: bool | None, tokenizer: bool | None, parts: tuple[str, ...]
) -> None:
    assert needed_parts(VLLM, info, host(info, known=known, tokenizer=tokenizer)) == parts


@pytest.mark.parametrize(
    ("fact", "known", "parts"),
    [
        ({"needed": False, "version": "0.33.0"}, False, ()),
        ({"needed": True, "version": "0.33.0"}, True, ("model",)),
        ({"needed": False, "version": "0.1"}, False, ("configuration",)),
    ],
)
def test_the_catalogue_wins_for_its_version(fact: dict[str, object], known: bool, parts: tuple[str, ...]) -> None:
    catalogue = Catalogue(document({"models": [{"id": OWN.source, "remote_code": {"vllm": fact}}]}))
    info = replace(OWN, catalogue=catalogue.find(OWN.source))
    here = host(info, known=known)
    installed = replace(here.installed[EngineName.VLLM], version="0.33.0")
    here = replace(here, installed={**here.installed, EngineName.VLLM: installed})
    assert needed_parts(VLLM, info, here) == parts


def test_engines_of_other_servers_read_no_code_here() -> None:
    assert needed_parts(EngineSpec(engine=EngineName.SIM), OWN, host(OWN, known=False)) == ()


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("--trust-remote-code",), True),
        (("--trust_remote_code", "--x"), True),
        (("--trust-remote-code=true",), True),
        (("--trust-remote-code=false",), False),
        (("--model-impl", "auto"), False),
        ((), False),
    ],
)
def test_only_the_users_arguments_allow_it(words: tuple[str, ...], allowed: bool) -> None:
    assert trusted(words) is allowed


@pytest.mark.parametrize(
    ("spec", "info", "known", "warning"),
    [
        (TRUSTING, OWN, False, f"its owner may change at any time: pin it with `revision: {COMMIT}`"),
        (TRUSTING, replace(OWN, commit=None), False, "pin it with `revision: COMMIT`"),
        (replace(TRUSTING, revision=COMMIT), OWN, False, ""),
        (TRUSTING, replace(OWN, own_config=False), False, ""),
        (TRUSTING, OWN, True, "vllm knows `novel` without the checkpoint's code: --trust-remote-code is not needed"),
    ],
)
def test_warns_of_code_that_may_change_and_of_a_needless_permission(
    spec: ModelSpec, info: ModelInfo, known: bool, warning: str
) -> None:
    found = [text for text in planned(spec, info, known=known).warnings if "code" in text]
    assert [warning in text for text in found] == ([True] if warning else [])


def test_a_local_model_has_no_commit() -> None:
    local = replace(OWN, source="/models/novel", commit=None)
    with pytest.raises(ConfigError) as caught:
        planned(replace(CHAT, source=local.source), local)
    assert "revision" not in caught.value.problems[0].example
