"""What `berth migrate --set` and `--source` change of a model, and what they do not."""

import pytest

from berth.boot.config.model_changes import OPTIONS, changed, requested
from berth.boot.config.model_yaml import SCALARS
from berth.boot.config.models import parse_models
from berth.errors import ConfigError

(CHAT,) = parse_models(
    "chat: {source: Qwen/Qwen3-8B, revision: main, engines: [{engine: vllm, args: [--max-num-seqs, '64']}, sglang]}"
)
(CHOSEN,) = parse_models("chat=Qwen/Qwen3-8B")
(SIM,) = parse_models("m=any@sim")


@pytest.mark.parametrize(
    ("before", "texts", "source", "after"),
    [
        ((), ("args=--x 'a b'",), "", ("engines[0].args=--x 'a b'",)),
        ((), ("vllm.args=",), "", ("engines[0].args=",)),
        ((), ("args+=--x 1",), "", ("engines[0].args=--max-num-seqs 64 --x 1",)),
        (("engines[0].args=--y",), ("args+=--x",), "", ("engines[0].args=--y --x",)),
        (("context=1024",), ("context=2048", "kv_cache=8GiB"), "", ("context=2048", "kv_cache=8GiB")),
        (("context=1024",), ("context=",), "", ("context=",)),
        ((), (), "owner/other@v2", ("source=owner/other", "revision=v2")),
        (("source=owner/other", "revision=v2"), (), "/models/new", ("source=/models/new",)),
    ],
)
def test_what_is_requested_is_added_to_what_has_changed(
    before: tuple[str, ...], texts: tuple[str, ...], source: str, after: tuple[str, ...]
) -> None:
    assert requested(CHAT, "engines[0]", before, texts, source) == after


def test_changes_are_applied_to_the_entry_of_the_model() -> None:
    spec = changed(CHAT, ("engines[1].args=--x y", "context=32K", "revision=v2", "source=owner/other"))

    assert (spec.source, spec.revision, spec.context) == ("owner/other", "v2", 32768)
    assert [one.args for one in spec.engines] == [("--max-num-seqs", "64"), ("--x", "y")]
    assert changed(CHAT, ("source=/models/new",)).revision is None
    assert changed(spec, ("context=",)).context is None
    assert changed(CHAT, ()) == CHAT


def test_an_engine_that_berth_has_chosen_gets_arguments_too() -> None:
    changes = requested(CHOSEN, "vllm", (), ("args+=--max-num-seqs 64",), "")

    assert changes == ("vllm.args=--max-num-seqs 64",)
    (one,) = changed(CHOSEN, changes).options.values()
    assert one.args == ("--max-num-seqs", "64")
    assert requested(CHOSEN, "vllm", changes, ("args+=--x",), "") == ("vllm.args=--max-num-seqs 64 --x",)


@pytest.mark.parametrize(
    ("texts", "source", "words"),
    [
        (("contxt=1",), "", ["'contxt=1'", "(did you mean context)", "concurrency", "BERTH_MODELS"]),
        (("standby=warm",), "", ["no field that a migration can change"]),
        (("context",), "", ["expected FIELD=VALUE"]),
        (("context+=1",), "", ["expected FIELD=VALUE"]),
        (("context=abc",), "", ["--set: chat.context='abc'", "32768", "--set context=32768"]),
        (("args=--host x",), "", ["'--host'", "Berth sets this itself", "--set 'args=--max-num-seqs 64'"]),
        (("args=--api-key x",), "", ["a secret that `ps` would show"]),
        (("args='",), "", ["No closing quotation", "words as in a shell"]),
        (("a=1", "b=2"), "", ["'a=1'", "'b=2'"]),
        ((), "not a source", ["--source='not a source'", "a hub id, a local path"]),
        (
            (),
            "owner/other@a b",
            ["--source: revision=", "a b", "a branch, tag or commit", "Example: --source Qwen/Qwen3-8B@"],
        ),
        (("revision=v2",), "", ["only hub models have revisions"]),
    ],
)
def test_an_error_names_field_value_and_what_is_allowed(texts: tuple[str, ...], source: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        requested(CHAT, "engines[0]", ("source=/models/old",) if "revision=v2" in texts else (), texts, source)

    said = "\n".join(map(str, caught.value.problems))
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize("line", ["later=1", "engines[7].args=--x", "none.args=--x"])
def test_changes_of_another_berth_are_rejected(line: str) -> None:
    with pytest.raises(ConfigError):
        changed(SIM, (line,))


def test_each_option_has_its_rule() -> None:
    assert set(OPTIONS) <= set(SCALARS)
