"""The parser that is rebuilt from a snapshot."""

import pytest

from etc.tools.contract.parser import RefusedError, SnapshotParser
from etc.tools.contract.table import Deprecation, Option, Snapshot

OPTIONS = (
    Option(dest="model", nargs="?"),
    Option(flags=("--port", "-p"), dest="port", type="int"),
    Option(flags=("--share",), dest="share", type="float or None"),
    Option(flags=("--length",), dest="length", type="human_readable_int_or_auto"),
    Option(flags=("--json",), dest="json", type="loads"),
    Option(flags=("--names",), dest="names", nargs="+"),
    Option(flags=("--rank",), dest="rank", type="int", choices=(1, 8)),
    Option(flags=("--eager", "--no-eager"), dest="eager", nargs=0),
    Option(flags=("--special",), dest="special", type="parse_special"),
    Option(flags=("--gone",), dest="gone", nargs=0, deprecated=Deprecation.REFUSED),
)
SNAPSHOT = Snapshot(engine="vllm", version="1", origin="made up", options=OPTIONS)


def test_accepts_what_the_engine_accepts() -> None:
    words = ["m", "--port=80", "--share", "None", "--length", "8k", "--json", "{}", "--names", "a", "b"]
    words += ["--rank", "8", "--no-eager", "--special", "s"]

    read = SnapshotParser(SNAPSHOT).read(words)

    assert (read.model, read.port, read.share, read.length) == ("m", 80, None, "8k")
    assert (read.json, read.names, read.rank, read.eager, read.special) == ({}, ["a", "b"], 8, True, "s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
        ("--por 80", "unrecognized arguments: --por 80"),  # no abbreviations: the next release may have two that fit
        ("--port x", "invalid int value: 'x'"),
        ("--port", "expected one argument"),
        ("--share x", "--share: invalid"),
        ("--length 8z", "--length: invalid"),
        ("--json {", "--json: invalid"),
        ("--rank 7", "invalid choice: 7"),
        ("--eager=1", "ignored explicit argument"),
        ("--gone", "--gone was taken away"),
    ],
)
def test_rejects_what_the_engine_rejects(words: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        SnapshotParser(SNAPSHOT).read(["m", *words.split()])


def test_requires_required_options() -> None:
    required = Snapshot(
        engine="vllm", version="1", origin="", options=(Option(flags=("--model",), dest="model", required=True),)
    )

    with pytest.raises(RefusedError, match="required: --model"):
        SnapshotParser(required, words=[]).read([])


def test_omitting_unread_packages_makes_no_difference() -> None:
    words = ["m", "--port=1"]
    parser = SnapshotParser(SNAPSHOT, words)

    assert parser.read(words).port == 1
    with pytest.raises(RefusedError, match="unrecognized arguments: --nonsense"):
        parser.read([*words, "--nonsense"])
