"""The output that docs/migrate.md and docs/compare.md show has the form of what the program writes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from berth.bench import report
from berth.control.operations.commands import migration_lines, planned_lines
from berth.ipc.migration import Counts, How, Migration, Options, Phase
from berth.records.results import Difference, OwnCost
from tests.bench.results_of import broken, engine, result

DOCS = Path(__file__).resolve().parents[1] / "docs"
MIGRATE, COMPARE = (DOCS / "migrate.md").read_text(), (DOCS / "compare.md").read_text()
OPTIONS = Options(to="sglang")
BOTH = Migration(
    options=OPTIONS,
    how=How.BOTH,
    candidate="chat-sim-2",
    stable="chat-sim",
    before=("chat-sim", "chat-sim-2"),
    after=("chat-sim-2", "chat-sim"),
    revision=2,
    phase=Phase.STARTING,
    since=0.0,
)
SWAP = replace(BOTH, how=How.SWAP, sleeps=True, candidate="chat-sim", stable="chat-sim-2", revision=4, hold_s=15.0)
PLACE = replace(
    BOTH, how=How.SWAP, candidate="chat-vllm", stable="chat-vllm", revision=3, hold_s=43.0,
    changes=("engines[0].args=--max-num-seqs 64", "context=32768"),
)  # fmt: skip


def shown(command: str) -> list[str]:
    """What the page has behind a command, up to the next one."""
    found = re.search(rf"^    \$ berth {command}\n((?:    [^$].*\n)+)", MIGRATE, re.MULTILINE)
    assert found, command
    return [line.removeprefix("    ") for line in found[1].splitlines()]


@pytest.mark.parametrize(
    ("command", "migration"),
    [
        ("migrate chat --to sglang --dry-run", BOTH),
        ("migrate chat --to vllm --how swap --check", SWAP),
        (r"migrate chat --set .* --check", PLACE),
    ],
)
def test_plans_are_shown_as_they_are(command: str, migration: Migration) -> None:
    lines = shown(command)
    assert [line for line in lines if " -> ready" not in line] == planned_lines(migration)


def test_running_migrations_are_shown_as_they_are() -> None:
    own = Counts(attempts=51, answers=53, timed=53)
    tried = replace(SWAP, phase=Phase.TRIAL, hold_s=27.0, check="4 answers are sane", own=own)
    canary = replace(
        BOTH,
        phase=Phase.CANARY,
        step=1,
        check="4 answers are sane, 4 with the same text as now",
        own=Counts(attempts=28, probes=24, answers=4, timed=4),
        other=Counts(attempts=209, answers=211, timed=211),
    )
    assert shown("migration fa9bb86a")[1:] == migration_lines(tried)
    assert shown("migration 79d49538")[1:] == migration_lines(canary)


NAMES = ("chat-sim", "chat-sim-2")
NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*%?")


def forms(text: str) -> list[str]:
    """The lines without their numbers, and what depends on them."""
    lines = []
    for line in text.splitlines():
        named = re.sub(r"chat-sim(-2)?\b", "NAME", re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]+ UTC", "DATE", line))
        form = NUMBER.sub("#", named).replace("not measurable", "# ms").replace("rules", "rule").replace("rose", "fell")
        form = re.sub(r" \(<= #\)|same #|(?<=#) windows?\b|;? # more.*", "", form)
        form = re.sub(r"\b(FASTER|SLOWER|TIE|UNDECIDED)\b", "OUTCOME", form)
        lines.append(" ".join(form.split()))
    return lines


def outcomes() -> str:
    """What the program writes of two engines, of which one had a window that was invalid."""
    cost = Difference(mean=0.0006, low=0.0005, high=0.0007)
    none = Difference(mean=1e-6, low=-1e-5, high=2e-5)
    costs = (OwnCost(pairs=40, ttft=cost, tpot=cost, e2e=cost), OwnCost(pairs=40, ttft=cost, tpot=none, e2e=cost))
    rule = "F8: not settled: the time to the first token fell by 152% of its mean within the window"
    texts = []
    for own_cost in (*costs, None):
        one = engine("chat-sim", 1.0, engine="vllm", own_cost=own_cost)
        two = engine("chat-sim-2", 1.2, engine="sglang", own_cost=own_cost)
        for first in (one, broken(one, rule)):
            made = result(first, two, quick=True, gpu_hour_cost=None, source="simulated", revision="", gpus=())
            notes = tuple(f"F3: {name} is measured as configured: --itl 30ms --itl-per-running 1ms" for name in NAMES)
            made = replace(made, cpu="x86_64", workload="256/32", notes=notes)
            texts.append(report.text(made))
    return "\n".join(texts)


def test_the_report_of_a_benchmark_is_shown_as_it_is() -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```$", COMPARE, re.MULTILINE | re.DOTALL)
    known = set(forms(outcomes()))
    lines = forms(block)
    assert [line for line in lines if line not in known] == []
    assert {"goodput", "quality", "next", "Berth's", "INVALID:"} <= {line.partition(" ")[0] for line in lines}
