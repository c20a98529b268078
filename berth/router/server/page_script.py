"""The page's modules as one script: a single download, and smaller than many, since they have the same words.

No build step: the modules are joined when a worker is first asked for the script, in one scope. What they may contain
is little, and tests hold them to it: `import {a, b} from './x.js'` at the start, `export` before a `const`, a
`function` or a list in braces, and names at the top level that no other module has there.
"""

import re
from pathlib import Path
from typing import Final

_IMPORT: Final = re.compile(r"^import \{[^}]*\} from '([^']+)';\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=const|function|async function)", re.MULTILINE)
_LIST: Final = re.compile(r"^export \{[^}]*\};\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*//.*\n", re.MULTILINE)
_INDENT: Final = re.compile(r"^\s+", re.MULTILINE)


def joined(entry: Path) -> str:
    """The module `entry` after all that it imports."""
    scripts: dict[Path, str] = {}
    add(entry, scripts)
    return f"(()=>{{\n{''.join(scripts.values())}}})();\n"


def add(path: Path, scripts: dict[Path, str]) -> None:
    """Adds a module after those that it imports: in the order in which they must run."""
    text = compact(path.read_text(encoding="utf-8"))
    for found in _IMPORT.finditer(text):
        source = (path.parent / found[1]).resolve()
        if source not in scripts:
            add(source, scripts)
    scripts[path.resolve()] = _LIST.sub("", _EXPORT.sub("", _IMPORT.sub("", text)))


def compact(text: str) -> str:
    """Without lines of comment and indentation."""
    return _INDENT.sub("", _COMMENT.sub("", text))
