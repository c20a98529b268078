"""The secrets of an appliance, and the API keys of its clients: names, digests and limits.

The keys themselves stay with the clients.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import msgspec

ANONYMOUS: Final = "anonymous"  # whose requests need no key
MOST_KEYS: Final = 1000
SPARE_SLOTS: Final = 64  # for keys that a file gets while Berth runs
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One client, or several that share a name. 0 and () stand for no limit."""

    name: str
    slot: int = 0  # of its counters, and its index in the journal; 0: anonymous
    digests: tuple[str, ...] = ()  # SHA-256, hexadecimal: several while a key is replaced by another
    files: tuple[str, ...] = ()  # of `key_file`
    from_files: tuple[str, ...] = ()  # the digests that come from those
    guessable: bool = False  # one of the keys is short
    models: tuple[str, ...] = ()  # names and aliases that it may use; (): all
    priority: Literal["high", "normal", "low"] = "high"  # the highest that its requests may ask for
    share: float = 1.0  # of what the others in a queue get
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0  # requests at a time
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    burst_s: float = 10.0  # what it did not use of its rates for so long may come at once
    expires: float = 0.0  # Unix seconds
    # What its counter of tokens was at the beginning of this day and this month: control writes them.
    day_from: float = 0.0
    month_from: float = 0.0

    @property
    def limited(self) -> bool:
        """Its requests have more to pass than the check of the key."""
        rates = self.requests_per_minute or self.tokens_per_minute
        return bool(rates or self.concurrency or self.tokens_per_day or self.tokens_per_month)

    @property
    def budgets(self) -> tuple[tuple[int, float, str], ...]:
        """Each with the counter of tokens at its beginning: that of the month first."""
        month, day = (self.tokens_per_month, self.month_from, "month"), (self.tokens_per_day, self.day_from, "day")
        return tuple(one for one in (month, day) if one[0])


OPEN: Final = ApiKey(name=ANONYMOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The secrets that programs after boot need; keys.json, mode 0600. API keys only as SHA-256 hex digests.
    Control replaces it when the file of the API keys changes.
    """

    api_keys: tuple[ApiKey, ...] = ()
    retired: dict[str, int] = field(default_factory=dict)  # name -> slot of keys that were removed since boot
    admin_key_digest: str = ""
    admin_secret: str = ""  # signs the keys of `berth key admin`
    upstream_keys: dict[str, str] = field(default_factory=dict)  # replica name -> Bearer key
    engine_env: dict[str, dict[str, str]] = field(default_factory=dict)  # replica name -> the user's own variables
    nodes_key: str = ""  # signs the messages between the controls of several boxes
    hub_token: str = ""  # for what downloads, and nothing else
    session_secret: str = ""  # signs the cookies of the page; new at each start
    environ: dict[str, str] = field(default_factory=dict)  # the BERTH_* variables, without secrets: see boot.revise
    otel: dict[str, str] = field(default_factory=dict)  # the OTEL_* variables, where traces are wanted; some are secret

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Keys":
        return msgspec.json.decode(data, type=cls)

    def names(self) -> tuple[str, ...]:
        """By slot, as in the journal; also of keys that were removed since boot."""
        found = {0: ANONYMOUS, **{key.slot: key.name for key in self.api_keys}}
        found |= {slot: name for name, slot in self.retired.items()}
        return tuple(found.get(slot, f"key-{slot}") for slot in range(max(found) + 1))

    def masked(self, text: str) -> str:
        """The text of an engine without the keys that the engine knows."""
        for secret in (*self.upstream_keys.values(), self.hub_token):
            if secret:
                text = text.replace(secret, "***")
        return text

    def secrets(self) -> tuple[str, ...]:
        """All that is secret and known here."""
        own = [value for env in self.engine_env.values() for value in env.values()]
        headers = [value for name, value in self.otel.items() if name.endswith("HEADERS")]
        own += [part.partition("=")[2] for text in headers for part in text.split(",")]
        return (*self.upstream_keys.values(), self.hub_token, self.admin_secret, self.session_secret, *headers, *own)

    def digests(self) -> tuple[str, ...]:
        """Of the keys that are not known here."""
        digests = [digest for key in self.api_keys for digest in key.digests]
        return (*digests, self.admin_key_digest) if self.admin_key_digest else tuple(digests)

    def __repr__(self) -> str:
        return f"Keys(api_keys={len(self.api_keys)}, upstream_keys={len(self.upstream_keys)})"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def renewed(
    before: Sequence[ApiKey], retired: dict[str, int], after: Sequence[ApiKey], slots: int
) -> tuple[tuple[ApiKey, ...], dict[str, int]]:
    """The keys of `after` with the counters of those that had their names, and the slots of names that are gone: they
    keep them, so that no counter changes its owner. ValueError when there are more names than slots.
    """
    known = {**retired, **{key.name: key.slot for key in before}}
    free = iter(sorted(set(range(1, slots)) - set(known.values())))
    old = {key.name: key for key in before}
    found = []
    for key in after:
        slot = known.get(key.name) or next(free, 0)
        if not slot:
            raise ValueError(f"{len(known)} names since the start of Berth: restart it for more")
        was = old.get(key.name)
        known[key.name] = slot
        spent = (was.day_from, was.month_from) if was else (0.0, 0.0)
        found.append(replace(key, slot=slot, day_from=spent[0], month_from=spent[1]))
    names = {key.name for key in found}
    return tuple(found), {name: slot for name, slot in known.items() if name not in names}
