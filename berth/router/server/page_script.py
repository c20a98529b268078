"""The page's modules as one script: a single download, and smaller than many, since they have the same words.

No build step: the modules are joined when a worker is first asked for the script. Each stays in a scope of its own.
What they may contain is little, and tests hold them to it: `import {a, b} from './x.js'` at the start, and `export`
before a `const`, a `function` or a list in braces.
"""

import re
from pathlib import Path
from typing import Final

_IMPORT: Final = re.compile(r"^import \{([^}]*)\} from '([^']+)';$", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ((?:const|function|async function\*?|function\*) (\w+))", re.MULTILINE)
_LIST: Final = re.compile(r"^export \{([^}]*)\};\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*//.*\n", re.MULTILINE)
_INDENT: Final = re.compile(r"^\s+", re.MULTILINE)


def joined(entry: Path) -> str:
    """The module `entry` after all that it imports."""
    scripts: dict[Path, str] = {}
    add(entry, scripts)
    return "const $={};\n" + "".join(scripts.values())


def add(path: Path, scripts: dict[Path, str]) -> None:
    """Adds a module after those that it imports: in the order in which they must run."""
    text = compact(path.read_text(encoding="utf-8"))

    def imported(found: re.Match[str]) -> str:
        source = (path.parent / found.group(2)).resolve()
        if source not in scripts:
            add(source, scripts)
        return f"const {{{found.group(1).replace(' as ', ': ')}}}=$.{source.stem};"

    text = _IMPORT.sub(imported, text)
    names = [found.group(2) for found in _EXPORT.finditer(text)]
    for found in _LIST.finditer(text):  # "a as b": the module's a is b for others
        for one in found.group(1).split(","):
            own, _, public = one.strip().partition(" as ")
            names.append(f"{public}:{own}" if public else own)
    text = _LIST.sub("", _EXPORT.sub(r"\1", text))
    scripts[path.resolve()] = f"$.{path.stem}=(()=>{{{text}return{{{','.join(names)}}}}})();\n"


def compact(text: str) -> str:
    """Without lines of comment and indentation."""
    return _INDENT.sub("", _COMMENT.sub("", text))
