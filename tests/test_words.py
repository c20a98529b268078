"""The field's words: what clients, operators and developers read says the usual thing in the usual way.

The glossary behind this list is short: one word for each idea (peer, in-flight request, circuit breaker, allocation,
host, rejection, retry deadline, leftover process), and plain verbs (continue, report, return, log).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [
    *sorted((ROOT / "berth").rglob("*.py")),
    *sorted(path for kind in ("html", "js", "json") for path in (ROOT / "berth/page").rglob(f"*.{kind}")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("compose.yaml", "Dockerfile", "entrypoint.sh")),
    *sorted((ROOT / "etc/compose").glob("*.yaml")),
    *sorted((ROOT / "etc/prometheus").glob("*.yml")),
]
# Each with the word to use instead.
BANNED = {
    r"mould\w*": "template",
    r"allot\w*": "allocate, allocation",
    r"misfortune\w*": "failure cause",
    r"slumber\w*|dozing": "sleep, falling asleep",
    r"remnants?|earlier life": "leftover process, previous run",
    r"twins?": "peer",
    r"surroundings": "host",
    r"farewell|goodbye|last words": "shutdown, final log lines",
    r"left alone": "ejected, backed off",
    r"go(?:es|ing|ne)? on|went on": "continue, resume",
    r"told|(?<!\.)tells?": "report, log, return",
    r"for want of|in vain|anew|amiss|whoever|nobody": "for lack of, without success, again, wrong, anyone who, no one",
    r"for good": "permanently",
    r"beside": "next to, besides, with",
    r"is no text": "not a string",
    r"stand-in|give way|gives way": "standby, yield",
    r"patience": "retry deadline",
    r"obstacles?": "blocker, unsupported reason",
    r"verdicts?|refusals?": "result, rejection, error",
}
# Words of the wire: a status, and OpenAI's field for a model that declines.
ALLOWED: dict[str, tuple[str, ...]] = {
    "dozing": ("berth/state.py", "berth/page/parts.js"),
    "refusal": ("berth/apis/", "berth/dialects/", "berth/sim/"),
}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, banned word and the word to use; underscores separate words as blanks do."""
    for number, line in enumerate(text.replace("_", " ").splitlines(), 1):
        for pattern, better in BANNED.items():
            for found in re.finditer(rf"\b(?:{pattern})\b", line, re.IGNORECASE):
                yield number, found.group().lower(), better


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_uses_the_words_of_the_field(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = [
        f"{name}:{number}: {word!r}; better: {better}"
        for number, word, better in findings(path.read_text(encoding="utf-8"))
        if not name.startswith(ALLOWED.get(word, ("-",)))
    ]
    assert found == []


@pytest.mark.parametrize("line", ["it goes on", "Nobody asked", "the_twins", "told_", "FOR GOOD"])
def test_finds_banned_words(line: str) -> None:
    assert len(list(findings(line))) == 1


def test_leaves_parts_of_words_alone() -> None:
    assert list(findings("twinkle, retold, besides, shallot")) == []
