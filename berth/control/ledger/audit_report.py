"""`berth audit`: the last changes as text."""

import json
import time

import msgspec

from berth.records import audit


def report(data_dir: str, count: int, *, as_json: bool) -> str:
    """The newest last. Times are those of TZ."""
    entries = audit.last(data_dir, count)
    if as_json:
        return json.dumps(msgspec.to_builtins(entries), indent=2, ensure_ascii=False)
    lines = []
    for entry in entries:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.t))
        subject = " ".join(part for part in (entry.what, entry.target) if part)
        who = f"{entry.who} from {entry.origin}" if entry.origin else entry.who
        details = "".join(f" {name}={value!r}" for name, value in entry.details.items())
        number = f" operation={entry.operation}" if entry.operation else ""
        lines.append(f"{moment}  {subject}: {entry.result}, by {who}{number}{details}")
    return "\n".join(lines) or "Nothing was changed."
