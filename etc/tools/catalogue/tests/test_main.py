"""The catalogue that Berth ships holds against the engines' registries; and it is written from folders alone."""

import subprocess
from pathlib import Path

import pytest

from etc.tools.catalogue.__main__ import CORRECTIONS, main, read
from etc.tools.catalogue.tests.test_recipes import folder

CLEAN = '{"sources": {"vllm": {"url": "u", "date": "d"}, "sglang": {"url": "u", "date": "d"}}}'


def test_the_shipped_catalogue_names_parsers_that_exist_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("models.json: ")


def test_the_shipped_catalogue_has_all_corrections(tmp_path: Path) -> None:
    corrections = {model.id: model.parsers for model in read(CORRECTIONS).models}
    path = tmp_path / "new.json"
    words = ["--recipes", str(folder(tmp_path)), "--recipes-state", "abc@2026-01-01", "--catalogue", str(path)]
    main(words)
    written = {model.id: model.parsers for model in read(path).models}
    assert corrections.items() <= written.items()
    assert "acme/Big-8B-Instruct" in written


def test_writes_the_catalogue_and_prints_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrections, path = tmp_path / "corrections.json", tmp_path / "new.json"
    corrections.write_text(CLEAN)
    words = ["--recipes", str(folder(tmp_path)), "--corrections", str(corrections), "--catalogue", str(path)]
    assert main(words) == 1
    assert "is no clone, and its state is not given" in capsys.readouterr().err
    assert main([*words, "--recipes-state", "abc@2026-01-01"]) == 0
    assert '+  "id": "acme/Big-8B-Instruct",' in capsys.readouterr().out
    assert read(path).sources["recipes"].url.endswith("/tree/abc")
    assert main([*words, "--recipes-state", "abc@2026-01-01"]) == 0
    assert "+" not in capsys.readouterr().out


def test_the_state_of_a_clone_is_its_head(tmp_path: Path) -> None:
    clone = folder(tmp_path)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x", "--date=2026-01-02T12:00:00Z"]):
        subprocess.run([*git, *words], check=True)
    path = tmp_path / "new.json"
    main(["--recipes", str(clone), "--catalogue", str(path)])
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert read(path).sources["recipes"].url.endswith(head)


def test_a_name_that_no_engine_has_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"models": [{"id": "a/b", "parsers": {"vllm": {"tool": "nano_v3"}}}]}')
    assert main(["--catalogue", str(path)]) == 1
    assert "a/b: vllm has no tool parser 'nano_v3'" in capsys.readouterr().out
    path.write_text("[]")
    assert main(["--catalogue", str(path)]) == 1
    assert "is no catalogue" in capsys.readouterr().err
