"""What README and the folders promise is true."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from berth.boot.config.models import parse_models
from berth.boot.config.reference import render_readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCES = sorted((ROOT / "berth").rglob("*.py"))
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")


def test_the_reference_of_the_variables_is_generated() -> None:
    assert render_readme(README) == README, "write it anew: .venv/bin/berth env --markdown"


@pytest.mark.parametrize("example", re.findall(r'^ *(?:make run )?BERTH_MODELS="([^"]+)"', README, re.MULTILINE))
def test_the_short_forms_in_the_readme_parse(example: str) -> None:
    assert parse_models(example)


def test_the_yaml_in_the_readme_parses(tmp_path: Path) -> None:
    block = re.search(r"BERTH_MODELS: \|\n((?:      .*\n)+)", README)
    assert block
    key = tmp_path / "peer"
    key.write_text("k\n")
    text = re.sub(r"^      ", "", block[1], flags=re.MULTILINE).replace("/run/secrets/peer", str(key))
    chat, peer, embed = parse_models(text)
    assert (chat.name, chat.context, peer.name, peer.engines[0].api_key) == ("chat", 32768, "peer", "k")
    assert ([one.name for one in chat.adapters], embed.engines[0].batch) == (["law"], 32)


def test_the_python_in_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_the_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])make ([a-z][\w-]*)", README.split("## ", 1)[1])) - {"and"}
    assert named
    assert named <= targets


def test_every_program_in_the_readme_is_a_subcommand() -> None:
    named = set(re.findall(r"(?<![/\w.-])berth (plan|config|doctor|status|logs|env|sim)\b", README))
    for command in named:
        shown = subprocess.run(
            [ROOT / ".venv/bin/berth", command, "--help"], capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for_and_leaves_nothing_undone(path: Path) -> None:
    text = path.read_text()
    assert MARKS.search(text) is None
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
