"""The declarations that make extension types of classes: they are written from the source."""

from pathlib import Path

import pytest

from etc.compile import extension_types
from etc.compile.extension_types import declarations, listed, write
from etc.compile.modules import modules

ROOT = Path(__file__).resolve().parents[2]
BOX = '''
from berth.parts import Part, unlisted
from berth.other import Part as Renamed


class Box:
    """It has a part, or none."""

    name: str
    first: Part | None

    def __init__(self, part: Part, size: int) -> None:
        self.part = part
        self.size = size
        self.inner: "Box | None" = None
        self.own = Part()
        self.a, self.b = 1, 2

    async def fill(self) -> None:
        self.later = unlisted()
'''
SLOTTED = """
class Slotted:
    __slots__ = (*("a", "b"), "c")

    def __init__(self, other: "Slotted") -> None:
        self.a = self.b = 1
        self.c = other


class Special(Slotted):
    __slots__ = ()
"""


def declared(folder: Path, text: str, *names: str) -> str:
    (folder / "berth").mkdir()
    (folder / "berth/box.py").write_text(text)
    classes = {"berth/box.py": frozenset(names), "berth/parts.py": frozenset({"Part"})}
    return declarations(folder, "berth/box.py", classes)


def test_attributes_are_those_that_methods_set(tmp_path: Path) -> None:
    assert declared(tmp_path, BOX, "Box").splitlines() == [
        "from berth.parts cimport Part",
        "",
        "cdef class Box:",
        "    cdef public object name",
        "    cdef public Part first",
        "    cdef public Part part",
        "    cdef public object size",
        "    cdef public Box inner",
        "    cdef public Part own",
        "    cdef public object a",
        "    cdef public object b",
        "    cdef public object later",
    ]


def test_slots_are_all_attributes(tmp_path: Path) -> None:
    assert declared(tmp_path, SLOTTED, "Slotted", "Special").splitlines() == [
        "",
        "cdef class Slotted:",
        "    cdef public object a",
        "    cdef public object b",
        "    cdef public Slotted c",
        "",
        "cdef class Special(Slotted):",
        "    pass",
    ]


def test_a_module_that_only_imports_a_class_knows_its_type(tmp_path: Path) -> None:
    assert declared(tmp_path, "from berth.parts import Part\n") == "from berth.parts cimport Part\n"


def test_a_module_without_any_has_no_declarations(tmp_path: Path) -> None:
    assert declared(tmp_path, "from berth.other import Part\nclass Box: ...\n") == ""


@pytest.mark.parametrize(
    "head", ["@dataclass\nclass Box:", "class Box(Protocol):", "class Box(metaclass=ABCMeta):", "class Box(A, B):"]
)
def test_what_no_extension_type_can_be_is_an_error(tmp_path: Path, head: str) -> None:
    with pytest.raises(ValueError, match="Box cannot be an extension type: it has decorators, or a base that is none"):
        declared(tmp_path, f"{head}\n    size = 1\n", "Box")


def test_unknown_class_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_types, "LIST", tmp_path / "extension_types.txt")
    extension_types.LIST.write_text("# why\nberth/sse.py FrameSplitter Gone  # hot\n")
    with pytest.raises(ValueError, match=r"extension_types\.txt: berth/sse\.py has no class Gone"):
        listed(ROOT)


def test_every_listed_class_is_declared_once(tmp_path: Path) -> None:
    compiled = modules(ROOT)
    for path in compiled:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    write(ROOT, tmp_path, compiled)
    found = [path.read_text().count("cdef class ") for path in tmp_path.rglob("*.pxd")]
    assert sum(found) == sum(map(len, listed(ROOT).values()))
