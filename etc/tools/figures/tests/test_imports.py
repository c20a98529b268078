"""Parts, depth, edges and cycles of a package."""

from pathlib import Path

from etc.tools.figures.imports import Folder, folders
from etc.tools.figures.source import read_package


def test_counts_parts_depth_and_edges(tmp_path: Path) -> None:
    found = _folders(
        tmp_path,
        {
            "__init__.py": "from pack.top import x\n",  # no part, so no edge
            "top.py": "import json\nimport pack.middle\nfrom pack import low\nfrom pack.low import y\n",
            "middle.py": "def f():\n    from pack.low import y\n",
            "low.py": "y = 1\n",
        },
    )
    assert found == [Folder(path="pack", parts=3, depth=3, edges=3, cycles=())]


def test_takes_a_folder_for_one_part(tmp_path: Path) -> None:
    whole, inner = _folders(
        tmp_path,
        {"main.py": "from pack.deep.a import x\n", "deep/a.py": "from pack.deep.b import x\n", "deep/b.py": "x = 1\n"},
    )
    assert (whole.parts, whole.depth, whole.edges) == (2, 2, 1)
    assert (inner.path, inner.parts, inner.edges) == ("pack/deep", 2, 1)


def test_names_cycles(tmp_path: Path) -> None:
    (found,) = _folders(
        tmp_path,
        {"a.py": "import pack.b\n", "b.py": "import pack.c\n", "c.py": "import pack.a\n", "d.py": "import pack.a\n"},
    )
    assert found == Folder(path="pack", parts=4, depth=2, edges=4, cycles=(("a", "b", "c"),))


def _folders(folder: Path, files: dict[str, str]) -> list[Folder]:
    for name, text in files.items():
        path = folder / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(folders(read_package(folder / "pack")))
