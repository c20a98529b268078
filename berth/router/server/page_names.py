"""Shorter names for the variables of the page's script: they are a seventh of what a browser downloads.

It knows no scopes. A name that a module has at its top level gets the same short one everywhere; any other one gets a
letter within the top-level declaration around it. That changes nothing, as long as the modules keep to what tests hold
them to: what they take from the browser is in BROWSER, and no variable has a name from there.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from typing import Final

BROWSER: Final = frozenset(
    [
        *("AbortController", "addEventListener", "Array", "Blob", "Boolean", "BroadcastChannel", "clearInterval"),
        *("clearTimeout", "Date", "decodeURIComponent", "document", "encodeURIComponent", "Error", "EventSource"),
        *("fetch", "FileReader", "FormData", "JSON", "location", "Map", "Math", "Number", "Object", "performance"),
        *("Promise", "RegExp", "removeEventListener", "scrollTo", "Set", "setInterval", "setTimeout", "String"),
        *("TextDecoderStream", "URL", "URLSearchParams", "WeakMap", "window"),
    ]
)
WORDS: Final = frozenset(  # of the language
    [
        *("as", "async", "await", "break", "case", "catch", "const", "continue", "default", "delete", "do"),
        *("else", "false", "finally", "for", "function", "if", "in", "instanceof", "let", "new", "null", "of"),
        *("return", "this", "throw", "true", "try", "typeof", "undefined", "void", "while", "yield"),
    ]
)
LETTERS: Final = "etaosnirlcdupmhgfbvwyxkqjzETAOSNIRLCDUPMHGFBVWYXKQJZ"  # those of texts first, which compress best
_NAME: Final = re.compile(r"[A-Za-z_$][\w$]*")
_BLOCKS_FOLLOW: Final = frozenset([")", ";", "=>", "else", "try", "finally", "do", ""])
_DECLARES: Final = frozenset(["const", "let", "function", "async"])


def with_short_names(tokens: Sequence[str]) -> Iterator[str]:
    """The tokens of a script, without spaces that no word needs."""
    uses = list(roles(tokens))
    top = {name for name, role, depth in uses if role == "top" and not depth}
    everywhere = Counter(name for name, role, _depth in uses if role and name in top)
    taken = WORDS | BROWSER
    pairs = chain("$_", (name for name in map("".join, product(LETTERS, repeat=2)) if name not in taken))
    short = dict(zip((name for name, _count in everywhere.most_common()), pairs, strict=False))
    starts = [at for at, (name, _role, depth) in enumerate(uses) if not depth and name in _DECLARES]
    for start, end in zip([0, *starts], [*starts, len(uses)], strict=True):
        section = uses[start:end]
        own = Counter(name for name, role, _depth in section if role and name not in top)
        letters = chain(LETTERS, (f"_{letter}" for letter in LETTERS))
        local = short | dict(zip((name for name, _count in own.most_common()), letters, strict=False))
        for name, role, _depth in section:
            kept = "let" if name == "const" else name
            yield f"{name}:{local[name]}" if role == "field" else local[name] if role else kept


def roles(tokens: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Each token, whether it is a variable ("top" where it may be declared at the top level, "field" where it is also
    the name of a field, as in `{a, b}`), and how many brackets are open around it.
    """
    words = list(tokens)
    opened: list[str] = []  # brackets, with "fields" for those of objects and patterns
    before = ["", "", ""]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        role = ""
        is_property = before[-1] == "." and before[-3:] != [*"..."]
        if _NAME.fullmatch(word) and word not in WORDS | BROWSER and not is_property:
            role = "top" if before[-1] in ("const", "let", "function", "*") else "variable"
            if opened[-1:] == ["fields"] and before[-1] in ("{", ","):
                role = "field" if after in (",", "}", "=") else "" if after == ":" else role
        yield word, role, len(opened)
        if word.isspace():
            continue
        if word[0] == "}" or word in (")", "]"):
            opened.pop()
        if word in ("(", "[") or (word[0] in "`}" and word.endswith("${")):
            opened.append(word)
        elif word == "{":
            last = "=>" if before[-2:] == ["=", ">"] else before[-1]
            opened.append("block" if last in _BLOCKS_FOLLOW else "fields")
        before = [*before[1:], word]
