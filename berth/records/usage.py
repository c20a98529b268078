"""Usage of models by clients, as control writes it down: one file of JSON lines a month in the data directory.

A line is what a client used of a model since the line before. Lines are only ever appended, until the month is over:
then they become one for each hour. One that is written again has the same boot, number, client and model: the last one
counts. What is no line, because the machine lost power in the middle of it, is skipped.

`current` adds what is not written down yet, from the counters of the running appliance.
"""

import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from berth.errors import ControlError
from berth.ipc import key_counters, reserved_file
from berth.ipc.key_counters import USE_FIELDS, Shape, Use
from berth.plan import ApiKey, Keys, Plan, read_keys
from berth.plan.keys import ANONYMOUS

USAGE_VERSION: Final = 1
_WEEKS_S: Final = 28 * 86_400.0  # of the shortest month
NOTE_BYTES: Final = 200  # of a client and a model, at most

Pair = tuple[str, str]  # client and model


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    v: int = USAGE_VERSION
    t: int  # Unix seconds
    boot: str
    n: int
    key: str
    model: str
    req: int = 0
    err: int = 0
    prompt: int = msgspec.field(name="in", default=0)
    cached: int = 0
    out: int = 0

    @property
    def use(self) -> Use:
        return Use(requests=self.req, errors=self.err, prompt=self.prompt, cached=self.cached, completion=self.out)


def line_of(moment: int, boot: str, number: int, pair: Pair, use: Use) -> bytes:
    line = Line(
        t=moment,
        boot=boot,
        n=number,
        key=pair[0],
        model=pair[1],
        req=use.requests,
        err=use.errors,
        prompt=use.prompt,
        cached=use.cached,
        out=use.completion,
    )
    return msgspec.json.encode(line) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What is written down of this boot: up to which number, and how much. In the run directory, as the counters."""

    number: int = 0
    uses: list[tuple[str, str, Use]] = field(default_factory=list)

    def totals(self) -> dict[Pair, Use]:
        return {(key, model): use for key, model, use in self.uses}


def path(plan: Plan, month: str) -> Path:
    """Of a month: 2026-11."""
    return Path(plan.paths.data_dir, "berth", "usage", f"{month}.jsonl")


def month_of(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m")


def day_of(moment: float) -> str:
    """In the time zone of TZ."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d")


def boot_of(plan: Plan) -> str:
    """Of this start of this appliance: two appliances may share a data directory."""
    return f"{plan.created:x}-{zlib.crc32(plan.paths.run_dir.encode()):08x}"


def spent(plan: Plan) -> tuple[Sequence[ApiKey], dict[int, float]]:
    """The clients' keys, and what counts for the budgets of those that have one, by slot. Nothing where the files of
    the run directory cannot be read: they are another user's.
    """
    if not plan.paths.key_counters.exists():  # it would be made
        return (), {}
    try:
        keys = read_keys(plan.paths.run_dir).api_keys
        return keys, key_counters.charged(key_counters.rows(plan.paths.key_counters, Shape.of(plan)), keys)
    except (OSError, ControlError):
        return (), {}


def lines(file: Path) -> list[Line]:
    """Those that count; none of a file that is not there. OSError when it cannot be read."""
    try:
        return parsed(file.read_bytes())
    except FileNotFoundError:
        return []


def parsed(data: bytes) -> list[Line]:
    decode = msgspec.json.Decoder(Line).decode
    found: dict[tuple[str, int, str, str], Line] = {}
    for text in data.splitlines():
        try:
            line = decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if line.v <= USAGE_VERSION:
            found[line.boot, line.n, line.key, line.model] = line
    return list(found.values())


def read_notes(plan: Plan) -> Notes:
    """Empty before the first ones."""
    try:
        return msgspec.json.decode(reserved_file.read(plan.paths.usage_notes), type=Notes)
    except (OSError, ValueError):
        return Notes()


def with_written(plan: Plan, notes: Notes, now: float) -> Notes:
    """And what is written down in this month or the one before, and not noted: control was killed in between."""
    boot, uses, number = boot_of(plan), notes.totals(), notes.number
    for month in dict.fromkeys((month_of(now - _WEEKS_S), month_of(now))):
        for line in lines(path(plan, month)):
            if line.boot == boot and line.n > notes.number:
                pair = (line.key, line.model)
                uses[pair], number = uses.get(pair, Use()) + line.use, max(number, line.n)
    return Notes(number=number, uses=[(*pair, use) for pair, use in uses.items()])


def write(plan: Plan, notes: Notes, rows: "Sequence[memoryview[float]]", now: float) -> Notes:
    """Writes down what is not in `notes`, and returns and keeps those that have it. OSError or ControlError when that
    fails: then nothing has changed, and the next time has it all.
    """
    before, total = notes.totals(), counted(plan, read_keys(plan.paths.run_dir), rows)
    changed = differences(total, before)
    if not changed:
        return notes
    number, moment = notes.number + 1, int(now) - 1  # the minute that has just ended
    boot = boot_of(plan)
    data = b"".join(line_of(moment, boot, number, pair, use) for pair, use in changed.items())
    append(path(plan, month_of(moment)), data)
    notes = Notes(number=number, uses=[(*pair, use) for pair, use in (before | total).items()])
    reserved_file.write(plan.paths.usage_notes, msgspec.json.encode(notes))
    return notes


def write_rest(plan: Plan) -> None:
    """What an appliance that was killed had not written down, from its run directory. OSError or ControlError."""
    now, rows = time.time(), key_counters.rows(plan.paths.key_counters, Shape.of(plan))
    write(plan, with_written(plan, read_notes(plan), now), rows, now)


def append(file: Path, data: bytes) -> None:
    """In one piece, and on the disk when it returns. A line that was broken off before stays alone. OSError when it
    cannot be written as a whole.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{file}: only a part was written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def counted(plan: Plan, keys: Keys, rows: "Sequence[memoryview[float]]") -> dict[Pair, Use]:
    """All that was used since the start, by the names of clients and models."""
    names = {0: ANONYMOUS, **{slot: name for name, slot in keys.retired.items()}}
    names |= {key.slot: key.name for key in keys.api_keys}
    models = [route.name for route in plan.routes]
    found = key_counters.uses(rows, Shape.of(plan))
    return {(names[slot], models[route]): use for (slot, route), use in found.items() if slot in names}


def differences(now: Mapping[Pair, Use], before: Mapping[Pair, Use]) -> dict[Pair, Use]:
    none = Use()
    return {pair: use - before.get(pair, none) for pair, use in now.items() if use != before.get(pair, none)}


def current(plan: Plan, month: str, *, now: float) -> list[Line]:
    """All lines of the month; in this month with one more for what is not written down yet. OSError when they cannot
    be read.
    """
    if month != month_of(now) or not plan.paths.key_counters.exists():
        return lines(path(plan, month))
    notes, boot = read_notes(plan), boot_of(plan)
    # what control writes meanwhile, or has not noted yet, is part of the rest
    noted = [line for line in lines(path(plan, month)) if line.boot != boot or line.n <= notes.number]
    try:
        rows = key_counters.rows(plan.paths.key_counters, Shape.of(plan))
        rest = differences(counted(plan, read_keys(plan.paths.run_dir), rows), notes.totals())
    except ControlError:
        return noted
    number = notes.number + 1
    texts = (line_of(int(now), boot, number, pair, use) for pair, use in rest.items())
    return [*noted, *parsed(b"".join(texts))]


def summary(found: Iterable[Line], by: str) -> list[dict[str, Any]]:
    """`by`: key, model or day; "" for each key and model. The most tokens come first; days are in order."""
    sums: dict[tuple[str, ...], Use] = {}
    for line in found:
        group = {"key": (line.key,), "model": (line.model,), "day": (day_of(line.t),)}.get(by, (line.key, line.model))
        sums[group] = sums.get(group, Use()) + line.use
    names = (by,) if by else ("key", "model")
    order = sorted(sums, key=lambda group: group if by == "day" else (-sums[group].charged, *group))
    return [
        {**dict(zip(names, group, strict=True)), **{name: getattr(sums[group], name) for name in USE_FIELDS}}
        for group in order
    ]


def charged(found: Iterable[Line], since: float = 0.0) -> dict[str, float]:
    """The tokens that count for budgets, by client."""
    sums: dict[str, float] = {}
    for line in found:
        if line.t >= since:
            sums[line.key] = sums.get(line.key, 0.0) + line.use.charged
    return sums


def as_text(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """`form`: csv, json or "" for a table."""
    if form == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False)
    if not rows:
        return "" if form else "Nothing was used."
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    if form == "csv":
        return "\n".join(",".join(row) for row in table)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    names = len(table[0]) - len(USE_FIELDS)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
