"""What changed from one snapshot to another, in words, and which of it concerns Berth."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields

from etc.tools.contract.table import Option, Snapshot, by_name

MARK = "  <- Berth writes it"
SHOWN = tuple(field.name for field in fields(Option) if field.name not in ("dest", "flags", "choices"))


def difference(old: Snapshot, new: Snapshot, used: Collection[str] = ()) -> list[str]:
    """Lines; those about a flag or variable in `used` are marked. Empty where nothing changed."""
    return [
        *_of_options("option", old.options, new.options, used),
        *_of_options("key of the options file", old.yaml, new.yaml, used),
        *_of_variables(old, new),
    ]


def _of_options(what: str, old: Iterable[Option], new: Iterable[Option], used: Collection[str]) -> Iterator[str]:
    before, after = _by_any_flag(old), _by_any_flag(new)
    for option in by_name(old):
        if not _names(option) & after.keys():
            yield f"removed {what}: {option.name}{_mark(option, used)}"
    for option in by_name(new):
        earlier = next((before[name] for name in sorted(_names(option)) if name in before), None)
        if earlier is None:
            yield f"added {what}: {_described(option)}"
        elif changes := list(_changes(earlier, option)):
            yield f"changed {what}: {option.name}: {'; '.join(changes)}{_mark(earlier, used)}"


def _by_any_flag(options: Iterable[Option]) -> dict[str, Option]:
    return {name: option for option in options for name in _names(option)}


def _names(option: Option) -> set[str]:
    return set(option.flags) or {option.dest}


def _changes(old: Option, new: Option) -> Iterator[str]:
    yield from _of_values("flags", old.flags, new.flags)
    if old.choices and new.choices:
        yield from _of_values("choices", old.choices, new.choices)
    elif old.choices or new.choices:
        yield f"choices {_list(old.choices) or 'any'} -> {_list(new.choices) or 'any'}"
    for name in SHOWN:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{name} {_shown(before)} -> {_shown(after)}"


def _of_values(name: str, old: Iterable[object], new: Iterable[object]) -> Iterator[str]:
    gone, come = [value for value in old if value not in set(new)], [value for value in new if value not in set(old)]
    if gone:
        yield f"{name} no longer {_list(gone)}"
    if come:
        yield f"{name} now also {_list(come)}"


def _shown(value: object) -> str:
    return "unset" if value in (None, "") else f"{value}" if isinstance(value, str) else repr(value)


def _described(option: Option) -> str:
    said = [
        option.type,
        f"one of {_list(option.choices)}" if option.choices else "",
        f"default {option.default!r}" if option.default is not None else "",
        f"deprecated: {option.deprecated}" if option.deprecated else "",
    ]
    details = ", ".join(text for text in said if text)
    return f"{option.name} ({details})" if details else option.name


def _of_variables(old: Snapshot, new: Snapshot) -> Iterator[str]:
    for name in sorted(old.variables.keys() & new.variables.keys()):
        before, after = old.variables[name], new.variables[name]
        if bool(before) != bool(after):
            told = "occurs nowhere any more" if before else f"occurs now, in {_list(after)}"
            yield f"variable {name} {told}{MARK}"


def _mark(option: Option, used: Collection[str]) -> str:
    return MARK if _names(option) & set(used) else ""


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
