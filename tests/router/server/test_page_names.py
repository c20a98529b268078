"""Shorter names in the page's script."""

import re
from collections.abc import Iterator

import pytest

from berth.router.server import page_script
from berth.router.server.page import FOLDER
from berth.router.server.page_names import BROWSER, WORDS, roles, with_short_names
from berth.router.server.page_script import joined, tight, tokens

LONELY = re.compile(r"^\s*(?:for|while|if) \((?:[^()]|\([^()]*\))*\);$", re.MULTILINE)  # an empty statement
NAME = re.compile(r"[A-Za-z_$][\w$]*")


def short(script: str) -> str:
    return "".join(with_short_names([text for text, _kind in tokens(tight(script))]))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("const sum = (left, right) => left + right;", "let $=(e,t)=>e+t;\n"),
        ("let top = 1;\nfunction f(own) { return top + own; }", "let $=1;function _(e){return $+e}\n"),
        ("const f = ({ a, b = 1, c: d, ...e }) => a + b + d + e.a;", "let $=({a:e,b:t=1,c:a,...o})=>e+t+a+o.a;\n"),
        ("const f = (a) => ({ a, b: a, [a]: 1, 'c': a ? a : a });", "let $=(e)=>({a:e,b:e,[e]:1,'c':e?e:e});\n"),
        ("const f = (a) => { if (a) { a = 1; } else { a, a; } };", "let $=(e)=>{if(e){e=1}else{e,e}};\n"),
        (
            "const f = (a) => a?.b.c(document.a, ...a, `a ${a} ${{ a }.a}`);",
            "let $=(e)=>e?.b.c(document.a,...e,`a ${e} ${{a:e}.a}`);\n",
        ),
        (
            "async function f(a) { for (const [b, c] of a) await b(c); }",
            "async function $(e){for(let[t,a]of e)await t(a)}\n",
        ),
        ("const f = (a) => a.match(/a/gi) || true;", "let $=(e)=>e.match(/a/gi)||true;\n"),
    ],
)
def test_variables_are_renamed_and_nothing_else_is(script: str, expected: str) -> None:
    assert short(script) == expected


def test_a_section_with_many_names_has_enough_of_them() -> None:
    many = [f"name{number}" for number in range(100)]
    script = short(f"const f = ({', '.join(many)}) => 1;")
    assert len(set(script[script.index("(") + 1 : script.index(")")].split(","))) == 100


def declared(words: list[str]) -> Iterator[str]:
    """Names that a script declares, and perhaps some that stand next to them."""
    opened: list[int] = []
    for at, word in enumerate(words):
        before, after = words[at - 1], words[at + 1 : at + 3]
        if NAME.fullmatch(word) and (before in ("const", "let", "function", "*") or after == ["=", ">"]):
            yield word
        if word in ("(", "[", "{") or (word[0] in "`}" and word.endswith("${")):
            if word[0] == "}":
                opened.pop()
            opened.append(at)
        elif word in (")", "]", "}") or word[0] == "}":
            start = opened.pop()
            heads = words[max(0, start - 4) : start]
            if after == ["=", ">"] or {"const", "let", "catch"} & {*heads[-1:]} or "function" in heads[-3:]:
                yield from words[start:at]


def test_every_name_that_is_replaced_is_one_of_the_pages_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page takes from the browser is in BROWSER."""
    monkeypatch.setattr(page_script, "with_short_names", lambda texts: texts)
    words = [text for text, kind in tokens(joined(FOLDER / "app.js")) if not kind]
    variables = {word for word, role, _depth in roles(words) if role}
    assert variables - set(declared(words)) == set()
    assert {*words} >= BROWSER
    assert variables.isdisjoint(WORDS | BROWSER)


def test_modules_declare_one_name_at_a_time_at_their_top_level() -> None:
    """And no methods in objects: else it is not seen what a name is. An empty statement would be lost."""
    for path in FOLDER.rglob("*.js"):
        text = path.read_text()
        assert not re.search(r"^(?:export )?(?:const|let) (?:[\[{]|\w+,)|\b(?:var|class) \w", text, re.MULTILINE), (
            path.name
        )
        assert not re.search(r"^\s*(?:async |get |set )?(?!if|for|while|switch)\w+\(.*\) \{$", text, re.MULTILINE), (
            path.name
        )
        assert not LONELY.search(text), path.name
