from pathlib import Path

import pytest

from berth.boot.catalogue.schema import ParserNames
from etc.tools.catalogue.cookbook import parsers


def file(folder: Path, version: str, tool: str | None) -> None:
    path = folder / "generated" / version / "acme.yaml"
    path.parent.mkdir(parents=True)
    llm = f"{{tool_parser: {tool}, reasoning_parser: null}}" if tool else "null"
    path.write_text(f"families: [{{models: [{{model_path: acme/Big, attributes: {{llm: {llm}}}}}]}}]")


def test_the_newest_file_that_names_a_parser_wins(tmp_path: Path) -> None:
    for version, tool in (("v0.5.10", "new"), ("v0.5.9", "old"), ("v0.5.11", None)):
        file(tmp_path, version, tool)
    assert parsers(tmp_path) == {"acme/Big": (ParserNames(tool="new"), "cookbook:generated/v0.5.10/acme.yaml")}


@pytest.mark.parametrize("text", ["- a", "families: [{models: [{}]}]", "a: ["])
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    file(tmp_path, "v0.5.6", "x")
    (tmp_path / "generated" / "v0.5.6" / "acme.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"acme\.yaml is no file of the cookbook"):
        parsers(tmp_path)
