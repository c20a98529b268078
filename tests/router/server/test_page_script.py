"""The page's modules as one script."""

import re
from pathlib import Path

import pytest

from berth.router.server.page import FOLDER
from berth.router.server.page_script import compact, joined, tight, tight_style

MODULES = sorted(FOLDER.rglob("*.js"))
TOP = re.compile(r"^(?:export )?(?:const|let|(?:async )?function\*?) (?:(\w+)|[{[]([^}\]]*)[}\]] =)", re.MULTILINE)
START = re.compile(r"^(?:\s*(?://.*)?\n|import \{[^}]*\} from '[^']+';\n)*")


def test_a_module_comes_once_and_after_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "app.js").write_text(
        "// starts\nimport { a } from './parts.js';\nimport { B } from './views/b.js';\na(B);\n"
    )
    (tmp_path / "parts.js").write_text("const b = 1;\nexport const a = () => b;\nexport { b };\n")
    view = "import { a, b } from '../parts.js';\nexport async function* B() {\n  // why\n  yield a;\n}\n"
    view += "export function C() {}\n"
    (tmp_path / "views/b.js").write_text(view)
    assert joined(tmp_path / "app.js").splitlines() == [
        "(()=>{let _=1;let $=()=>_;async function*ee(){yield $}",
        "function et(){}",
        "$(ee);",
        "})();",
    ]


def test_what_is_not_needed_is_left_out() -> None:
    assert compact("a {\n    b: c;\n\n}\n  // why\nhttp://x // y\n") == "a {\nb: c;\n}\nhttp://x // y\n"
    assert compact("`<p>a\n  <b>c</b>\n  ${d}\n  e\n</p>`\n") == "`<p>a<b>c</b>${d}\ne</p>`\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("a = b // why: it's 'so'\nc()", "a=b\nc()\n"),
        (
            "a = 'x // y  z' + \"/* no */ '\" /* why */ + `  ${ a  +  b }  `",
            "a='x // y  z'+\"/* no */ '\"+`  ${a+b}  `\n",
        ),
        ("x = `a ${ b ? `c  ${ {d: `}`}.d }  ` : '' } e`;", "x=`a ${b?`c  ${{d:`}`}.d}  `:''} e`;\n"),
        ("`\\`  $  ${ a }` + 1", "`\\`  $  ${a}`+1\n"),
        ("a = b / c / d; e.match(/ [/'] +/g); [/`/, / {2}/]", "a=b/c/d;e.match(/ [/'] +/g);[/`/,/ {2}/]\n"),
        ("{ a = 1; }; `${ { b: 2 } };}`", "{a=1};`${{b:2}};}`\n"),
        ("return  a - -b + +c + d++ + e", "return a- -b+ +c+d++ +e\n"),
        ("if (a) {\nb\n} else if (c)\nd\n;(e)\nf\n.g", "if(a){b}else if(c)\nd;(e)\nf.g\n"),
    ],
)
def test_literals_stay_and_spaces_that_no_word_needs_go(script: str, expected: str) -> None:
    assert tight(script) == expected
    assert tight(expected) == expected


def test_a_template_that_does_not_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="a template does not end: '`b'"):
        tight("a = `b")


def test_a_style_sheet_keeps_what_separates_selectors() -> None:
    sheet = "a b:hover > i { c: d e; f: g; }\n@media (max-width: 7px) and (x) { .y .z { h: i } }\n"
    assert tight_style(sheet) == "a b:hover > i{c:d e;f:g}@media (max-width:7px) and (x){.y .z{h:i}}"


def test_the_page_keeps_to_what_can_be_joined() -> None:
    script = joined(FOLDER / "app.js")
    assert len({path.stem for path in MODULES}) == len(MODULES)
    assert not re.search(r"^(?:import|export)\b|\bimport\(", script, re.MULTILINE)
    for path in MODULES:
        text = path.read_text()
        assert not re.search(r"^import ", text[START.match(text).end() :], re.MULTILINE), path.name  # type: ignore[union-attr] # it matches ""
        assert not re.search(r"^export (?:default|let|class|\*)", text, re.MULTILINE), path.name


def test_no_two_modules_have_the_same_name_at_their_top_level() -> None:
    owners: dict[str, set[str]] = {}
    for path in MODULES:
        for one, several in TOP.findall(path.read_text()):
            for name in [one] if one else several.split(","):
                owners.setdefault(name.strip(), set()).add(path.name)
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}


def test_no_import_has_another_name() -> None:
    assert not [
        path.name for path in MODULES if re.search(r"^(?:im|ex)port \{[^}]* as ", path.read_text(), re.MULTILINE)
    ]


def test_every_imported_name_is_exported() -> None:
    for path in MODULES:
        for names, source in re.findall(r"^import \{([^}]*)\} from '([^']+)';$", path.read_text(), re.MULTILINE):
            text = (path.parent / source).read_text()
            exported = set(re.findall(r"^export (?:const|function|async function)\*? (\w+)", text, re.MULTILINE))
            exported |= {
                one.strip()
                for found in re.findall(r"^export \{([^}]*)\}", text, re.MULTILINE)
                for one in found.split(",")
            }
            assert {name.strip() for name in names.split(",")} <= exported, (path.name, source)
