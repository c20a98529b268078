"""Which revision is started: BERTH_MODELS wins, and what was promoted counts while its entry is unchanged."""

from dataclasses import replace

import pytest

from berth.boot.config.model_spec import AdapterSpec
from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec, parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.build import make_keys, make_plan
from berth.boot.planner.revisions import says
from berth.plan import Author, EngineName, Plan, Revision
from berth.records.revisions import History
from tests.fakes.machine import QWEN_8B, gpus, host_info

VLLM, SGLANG = EngineSpec(engine=EngineName.VLLM), EngineSpec(engine=EngineName.SGLANG)
CHAT = ModelSpec(name="chat", source="Qwen/Qwen3-8B", engines=(VLLM, SGLANG))
SECRET = "sk-of-an-engine"


def plan_of(spec: ModelSpec, *revisions: Revision, ignored: bool = False) -> Plan:
    host = replace(host_info(*gpus(1)), history=History(revisions=revisions, key=b"k" * 32))
    return make_plan(Settings(models=(spec,), revision="env" if ignored else "latest"), host)


def first(spec: ModelSpec = CHAT) -> Revision:
    return plan_of(spec).revisions[0]


def migrated(spec: ModelSpec = CHAT) -> Revision:
    one = first(spec)
    names = one.engines[::-1]
    says = {**one.says, "engines": ", ".join(names)}
    return replace(
        one, number=2, by=Author.MIGRATE, order=(1, 0), engines=names, says=says, at=1_764_000_000
    )  # fmt: skip


def test_a_model_without_a_history_has_its_first_revision() -> None:
    one = first()

    assert (one.number, one.by, one.order, one.at) == (1, Author.ENV, (0, 1), 1_700_000_000)
    assert one.says == {"source": "Qwen/Qwen3-8B", "engines": "vllm, sglang"}
    assert set(one.versions) >= {"vllm", "sglang"}


def test_an_unchanged_entry_keeps_its_revision() -> None:
    plan = plan_of(CHAT, first())

    assert plan.revisions == (first(),)
    assert not [text for text in plan.warnings if "revision" in text]


def test_what_was_promoted_is_started_and_says_how_to_keep_it() -> None:
    plan = plan_of(CHAT, first(), migrated())

    assert plan.models[0].replicas == ("chat-sglang", "chat-vllm")
    assert plan.revisions == (migrated(),)
    (note,) = [text for text in plan.warnings if "revision" in text]
    assert note.startswith("chat: revision 2 (sglang, vllm, by migrate on 2025-11-24")
    assert note.endswith("BERTH_MODELS is unchanged since. To keep it without the history: engines: [sglang, vllm]")


def test_an_order_that_is_written_down_is_the_same_revision() -> None:
    written = replace(CHAT, engines=(SGLANG, VLLM))
    (one,) = plan_of(written, first(), migrated()).revisions

    assert (one.number, one.order, one.base) == (2, (0, 1), first(written).base)
    assert plan_of(written, first(), one).models[0].replicas == ("chat-sglang", "chat-vllm")


@pytest.mark.parametrize(
    "changed",
    [
        replace(CHAT, source="BAAI/bge-m3"),
        replace(CHAT, revision="main"),
        replace(CHAT, context=4096),
        replace(CHAT, engines=(VLLM,)),
        replace(CHAT, engines=(replace(VLLM, args=("--max-num-seqs", "8")), SGLANG)),
        replace(CHAT, engines=(replace(VLLM, env={"A": "b"}), SGLANG)),
        replace(CHAT, engines=(), options={EngineName.VLLM: EngineOptions(args=("--x",), env={"A": "b"})}),
    ],
    ids=["source", "revision", "context", "engines", "args", "env", "options"],
)
def test_a_changed_entry_wins(changed: ModelSpec) -> None:
    (one,) = (plan := plan_of(changed, first(), migrated())).revisions

    assert (one.number, one.by) == (3, Author.ENV)
    assert plan.models[0].replicas[0] == "chat-vllm"
    assert "chat: revision 3 is what BERTH_MODELS says, in place of 2 (sglang, vllm)" in plan.warnings


def test_the_history_can_be_ignored() -> None:
    plan = plan_of(CHAT, first(), migrated(), ignored=True)

    assert plan.models[0].replicas == ("chat-vllm", "chat-sglang")
    assert [(one.number, one.by, one.order) for one in plan.revisions] == [(3, Author.ENV, (0, 1))]
    again = plan_of(CHAT, first(), migrated(), *plan.revisions, ignored=True)
    assert again.revisions == plan.revisions


def test_another_version_of_an_engine_is_the_same_revision() -> None:
    older = replace(first(), versions={"vllm": "0.1.0"})

    assert plan_of(CHAT, older).revisions == (first(),)


def test_a_damaged_history_is_reported() -> None:
    host = replace(host_info(*gpus(1)), history=History(problem="'/data/x' has 1 damaged line"))
    plan = make_plan(Settings(models=(CHAT,)), host)

    assert "revisions are ignored: '/data/x' has 1 damaged line" in plan.warnings


def test_a_revision_holds_no_secret_but_sees_it_change() -> None:
    def spec(secret: str) -> ModelSpec:
        entry = EngineSpec(engine=EngineName.REMOTE, url=f"http://user:{secret}@127.0.0.1:9/v1", api_key=secret)
        return replace(CHAT, engines=(replace(VLLM, env={"TOKEN": secret}), entry))

    one, other = first(spec(SECRET)), first(spec("another"))

    assert SECRET not in str(one)
    assert one.base != other.base
    assert {name for name in one.says if one.says[name] != other.says[name]} >= {"vllm.env.TOKEN"}


def test_engines_keep_their_own_settings_in_another_order() -> None:
    """Their variables are found by the place of an engine."""
    spec = replace(CHAT, engines=(replace(VLLM, env={"A": "1"}), replace(SGLANG, env={"B": "2"})))
    plan = plan_of(spec, first(spec), migrated(spec))

    assert make_keys(Settings(models=(spec,)), plan).engine_env == {"chat-sglang": {"B": "2"}, "chat-vllm": {"A": "1"}}


def test_all_that_can_be_configured_is_in_a_revision() -> None:
    text = """
    chat:
      source: Qwen/Qwen3-8B
      context: 8k
      kv_cache: 1GiB
      aliases: [a, b]
      engines: [{engine: vllm, args: [--seed, "1"]}, {url: "http://127.0.0.1:9100/v1", weights: w, batch: 4}]
    """
    (spec,) = parse_models(text)
    host = replace(host_info(*gpus(1)), history=History())
    (resolved,) = make_plan(Settings(models=(spec,)), host).revisions

    assert resolved.says == {
        "source": "Qwen/Qwen3-8B",
        "context": "8000",
        "kv_cache": str(2**30),
        "aliases": "a, b",
        "engines": "vllm, http://127.0.0.1:9100/v1",
        "vllm.args": "--seed 1",
        "http://127.0.0.1:9100/v1.weights": "w",
        "http://127.0.0.1:9100/v1.batch": "4",
    }


def test_adapters_and_the_commit_are_in_a_revision() -> None:
    spec = replace(CHAT, adapters=(AdapterSpec(name="support", source="/adapters/support"),))
    described = replace(QWEN_8B, commit="0123456789abcdef")
    host = replace(host_info(*gpus(1)), describe=lambda _: described)

    (one,) = make_plan(Settings(models=(CHAT,)), host).revisions

    assert one.versions["source"] == "0123456789ab"
    assert says(spec, b"")["adapters"] == "support=/adapters/support"


def test_the_same_engine_twice_is_named_by_its_arguments() -> None:
    spec = replace(CHAT, engines=(VLLM, replace(VLLM, args=("--max-num-seqs", "4"))))
    two = replace(migrated(spec), base=first(spec).base)

    assert first(spec).engines == ("vllm", "vllm --max-num-seqs 4")
    plan = plan_of(spec, first(spec), two)
    assert plan.revisions == (two,)
    assert plan.replica(plan.models[0].replicas[0]).launch is not None
    written = replace(spec, engines=spec.engines[::-1])
    assert plan_of(written, first(spec), two).revisions[0].number == 2


def changed(*changes: str) -> Revision:
    one = first()
    said = {**one.says, "context": "4096"}
    return replace(one, v=2, number=2, by=Author.MIGRATE, at=1_764_000_000, changes=changes, says=said)


def test_what_a_migration_has_changed_is_started_and_says_how_to_keep_it() -> None:
    plan = plan_of(CHAT, first(), changed("engines[0].args=--max-num-seqs 64", "context=4096"))

    launch = plan.replica("chat-vllm").launch
    assert launch is not None
    assert launch.argv[-2:] == ("--max-num-seqs", "64")
    assert plan.replica("chat-sglang").context == 4096
    assert plan.revisions[0].number == 2
    (note,) = [text for text in plan.warnings if "revision" in text]
    assert "(vllm, sglang, engines[0].args=--max-num-seqs 64, context=4096, by migrate" in note
    assert note.endswith("history: engines[0]: {args: ['--max-num-seqs', '64']}, context: 4096")


def test_what_is_written_down_of_a_migration_is_the_same_revision() -> None:
    written = replace(CHAT, context=4096)
    promoted = replace(changed("context=4096"), says=says(written, b"k" * 32))
    (one,) = plan_of(written, first(), promoted).revisions

    assert (one.number, one.changes, one.v, one.base) == (2, (), 1, first(written).base)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_revision_is_not_started_that_is_ignored_or_not_understood(*, ignored: bool) -> None:
    plan = plan_of(CHAT, first(), changed("context=4096" if ignored else "later=1"), ignored=ignored)

    assert plan.replica("chat-vllm").context != 4096
    assert (plan.revisions[0].number, plan.revisions[0].by, plan.revisions[0].changes) == (3, Author.ENV, ())
    (note,) = [text for text in plan.warnings if "revision" in text]
    assert "revision 3 is what BERTH_MODELS says, in place of 2 (vllm, sglang, " in note
