"""The page's modules as one script: a single download, and smaller than many, since they have the same words.

No build step: the modules are joined when a worker is first asked for the script, in one scope, and what only people
need is left out. What they may contain is little, and tests hold them to it: `import {a, b} from './x.js'` at the
start, `export` before a `const`, a `function` or a list in braces, and names at the top level that no other module has
there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from berth.router.server.page_names import with_short_names

_IMPORT: Final = re.compile(r"^import \{[^}]*\} from '([^']+)';\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=const|function|async function)", re.MULTILINE)
_LIST: Final = re.compile(r"^export \{[^}]*\};\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*//.*\n", re.MULTILINE)
_INDENT: Final = re.compile(r"^\s+", re.MULTILINE)
_BETWEEN_TAGS: Final = re.compile(r"\n(?=<)|(?<=>)\n(?=\$\{)")  # berth/page/dom.js leaves these out itself
_TOKEN: Final = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<space>\s+)|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[\w$]+|.""", re.DOTALL
)
_TEMPLATE: Final = re.compile(r"[`}](?:\\.|\$(?!\{)|[^`\\$])*(?:`|\$\{)", re.DOTALL)  # up to the next code in it
_PATTERN: Final = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n[])+/[a-z]*")
_ENDS: Final = re.compile(r"\s*([{};,])\s*|(?<=:) ")
_BEFORE_PATTERN: Final = frozenset("(,=:[!&|?{};>\n")  # after anything else a slash divides
_OPEN, _CLOSED = frozenset("{([,;=?:&|>"), frozenset("})].?:&|,;")  # no statement ends after those, or before these


def joined(entry: Path) -> str:
    """The module `entry` after all that it imports."""
    scripts: dict[Path, str] = {}
    add(entry, scripts)
    script = tight("".join(scripts.values()))
    return f"(()=>{{{''.join(with_short_names([text for text, _kind in tokens(script)]))}}})();\n"


def add(path: Path, scripts: dict[Path, str]) -> None:
    """Adds a module after those that it imports: in the order in which they must run."""
    text = compact(path.read_text(encoding="utf-8"))
    for found in _IMPORT.finditer(text):
        source = (path.parent / found[1]).resolve()
        if source not in scripts:
            add(source, scripts)
    scripts[path.resolve()] = _LIST.sub("", _EXPORT.sub("", _IMPORT.sub("", text)))


def compact(text: str) -> str:
    """Without lines of comment, indentation, and lines that end before a tag."""
    return _BETWEEN_TAGS.sub("", _INDENT.sub("", _COMMENT.sub("", text)))


def tight(script: str) -> str:
    """Also without comments behind code, and without spaces that no word needs. Strings, regular expressions and the
    text of templates stay as they are.
    """
    done, gap = [""], ""
    for text, kind in tokens(script):
        if kind:
            gap = "\n" if "\n" in gap or (kind == "space" and "\n" in text) else " "
            continue
        last, first = done[-1][-1:], text[0]
        if gap == "\n" and not (last in _OPEN or first in _CLOSED):
            done.append("\n")
        elif last == ";" and text == "}":
            done.pop()
        elif gap and (f"{last}{first}".isidentifier() or (last == first and first in "+-")):
            done.append(" ")
        done.append(text)
        gap = ""
    return "".join(done) + "\n"


def tokens(script: str) -> Iterator[tuple[str, str | None]]:
    """Words, signs, literals and parts of templates, and between them "space" and "comment". ValueError for a template
    that does not end.
    """
    at, last = 0, "\n"
    braces: list[int] = []  # that are open in the code of each template around this place
    while at < len(script):
        code_ends = script[at] == "}" and bool(braces) and not braces[-1]  # that of a template
        template = code_ends or script[at] == "`"
        pattern = _PATTERN.match(script, at) if last in _BEFORE_PATTERN else None
        found = _TEMPLATE.match(script, at) if template else pattern or _TOKEN.match(script, at)
        if found is None:
            raise ValueError(f"a template does not end: {script[at : at + 80]!r}")
        text, at = found[0], found.end()
        if code_ends:
            braces.pop()
        if template and text.endswith("${"):
            braces.append(0)
        elif braces and not template:
            braces[-1] += (text == "{") - (text == "}")
        if not found.lastgroup:
            last = text[-1]
        yield text, found.lastgroup


def tight_style(sheet: str) -> str:
    """A style sheet without spaces around what ends its parts. It has no comments."""
    return _ENDS.sub(r"\1", compact(sheet)).replace(";}", "}")
