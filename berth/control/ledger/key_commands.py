"""`berth key`: makes keys for clients and for the operator, and lists those of clients. It changes no configuration."""

import re
import secrets
import time
from typing import Final

from berth.admin_keys import LIFETIME_S, make
from berth.errors import ControlError
from berth.plan import ApiKey, Keys, read_keys
from berth.plan.keys import digest
from berth.units import date

PREFIX: Final = "sk-berth-"
_RANDOM_BYTES: Final = 18
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_COLUMNS: Final = "{:<20} {:<12} {:<8} {:<6} {}"


def new(name: str, *, as_variables: bool) -> str:
    """A key and how to add it. ControlError for a name that no key can have."""
    if not _NAME.fullmatch(name) or name in ("default", "anonymous"):
        raise ControlError(f"{name!r} is no name for a key: use a-z, 0-9 and '-', at most 32 characters")
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    if as_variables:
        variable = name.upper().replace("-", "_")
        variable = f"_{variable}" if variable[0].isdigit() else variable
        return f"{variable}_KEY={key}\n{variable}_SHA256={digest(key)}"
    return (
        f"{key}\n\nThe client sends it as 'Authorization: Bearer {key}'. It is shown once. Add one of these lines to "
        "BERTH_API_KEYS or its file; the second one holds no secret:\n\n"
        f"{name}: {{key: {key}}}\n{name}: {{sha256: {digest(key)}}}"
    )


def admin(run_dir: str) -> str:
    """A key for /admin of the running Berth. ControlError where none runs."""
    secret = read_keys(run_dir).admin_secret
    return make(secret, time.time() + LIFETIME_S)


def listing(run_dir: str) -> str:
    """The keys of the running Berth, without the keys themselves. ControlError where none runs."""
    keys: Keys = read_keys(run_dir)
    if not keys.api_keys:
        return "No key: BERTH_API_KEYS is not set."
    lines = [_COLUMNS.format("NAME", "EXPIRES", "PRIORITY", "SHARE", "LIMITS")]
    lines += [
        _COLUMNS.format(
            key.name, date(key.expires) if key.expires else "-", key.priority, f"{key.share:g}", limits(key)
        )
        for key in keys.api_keys
    ]
    return "\n".join(line.rstrip() for line in lines)


def limits(key: ApiKey) -> str:
    """As in BERTH_API_KEYS."""
    given = {
        "models": f"[{', '.join(key.models)}]" if key.models else "",
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "concurrency": key.concurrency,
        "tokens_per_day": key.tokens_per_day,
        "tokens_per_month": key.tokens_per_month,
    }
    return ", ".join(f"{name}: {value}" for name, value in given.items() if value) or "none"
