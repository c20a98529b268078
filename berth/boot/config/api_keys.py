"""BERTH_API_KEYS: a list of keys, or a YAML mapping from the names of clients to their keys and limits.

Keys become digests here: nothing after this module knows them.
"""

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from berth.boot.config import parsers
from berth.boot.config.model_rules import Problems, Rule, public_name
from berth.boot.config.yaml_text import Tree, YamlError, items, mapping, masked_tree, read, scalar, scalars
from berth.errors import ConfigError
from berth.plan import ApiKey
from berth.plan.keys import ANONYMOUS, MOST_KEYS, digest

VARIABLE: Final = "BERTH_API_KEYS"
DEFAULT: Final = "default"
STRONG_LENGTH: Final = 20  # characters: keys of `berth key new` have 33
EXAMPLE: Final = "alice: {key: sk-berth-..., models: [chat]}"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_YAML: Final = re.compile(r":(\s|\Z)")
_TOKENS: Final = "tokens: 20000, 20k (20000), 20K (20480)"


def client_name(text: str) -> str:
    if text == ANONYMOUS:
        raise ValueError("stands for clients without a key")
    if not _NAME.fullmatch(text):
        raise ValueError("not a name of lower-case letters, digits and hyphens")
    return text


def sha256_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text.lower()):
        raise ValueError("not a SHA-256 digest of 64 hexadecimal digits")
    return text.lower()


def moment(text: str) -> float:
    """Unix seconds. A date is the beginning of that day, in UTC where the text names no other zone."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


NAME: Final = Rule(parse=client_name, allowed="a-z, 0-9 and '-', at most 32 characters", example=EXAMPLE)
KEY: Final = Rule(parse=parsers.secret, allowed="printable ASCII without white space", example=EXAMPLE)
SHA256: Final = Rule(parse=sha256_digest, allowed="what `berth key new NAME` prints", example="sha256: 9f86d081...")
KEY_FILE: Final = Rule(
    parse=parsers.read_value, allowed="a readable file with the key", example="key_file: /run/secrets/alice"
)
MODEL: Final = Rule(parse=public_name, allowed="names and aliases of BERTH_MODELS", example="models: [chat, embed]")
NUMBERS: Final[dict[str, Rule[Any]]] = {  # the rules of the fields with one value
    "priority": Rule(
        parse=parsers.choice("high", "normal", "low"), allowed="high, normal, low", example="priority: normal"
    ),
    "share": Rule(parse=parsers.fraction(0.01, 1000), allowed="a number from 0.01 to 1000", example="share: 2"),
    "requests_per_minute": Rule(
        parse=parsers.whole_number(1, 10_000_000), allowed="1 to 10000000", example="requests_per_minute: 60"
    ),
    "tokens_per_minute": Rule(parse=parsers.tokens, allowed=_TOKENS, example="tokens_per_minute: 20k"),
    "concurrency": Rule(parse=parsers.whole_number(1, 100_000), allowed="1 to 100000", example="concurrency: 4"),
    "tokens_per_day": Rule(parse=parsers.tokens, allowed=_TOKENS, example="tokens_per_day: 2m"),
    "tokens_per_month": Rule(parse=parsers.tokens, allowed=_TOKENS, example="tokens_per_month: 20m"),
    "expires": Rule(parse=moment, allowed="a date, or a date and time", example="expires: 2027-01-31"),
    "burst": Rule(parse=parsers.positive_duration, allowed="a duration: 10s, 1m", example="burst: 10s"),
}
LIMITS: Final = ("models", *NUMBERS)
FIELDS: Final = ("key", "sha256", "key_file", *LIMITS)


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys in their order, each with a slot. ConfigError with every problem. Reads the files that `key_file`
    names.
    """
    problems = Problems(VARIABLE)
    if _YAML.search(text) or text.startswith("{"):
        found = _named(text, problems)
    else:
        words = parsers.secrets(text)
        found = [
            ApiKey(name=f"key-{number}", digests=(digest(word),), guessable=len(word) < STRONG_LENGTH)
            for number, word in enumerate(words, 1)
        ]
    if len(found) > MOST_KEYS:
        problems.add("", f"{len(found)} keys", "too many", allowed=f"at most {MOST_KEYS} keys", example=EXAMPLE)
    owners: dict[str, str] = {}
    for key in found:
        for one in key.digests:
            if (other := owners.setdefault(one, key.name)) != key.name:
                problems.add(key.name, "***", f"{other} has the same key", allowed="each key once", example=EXAMPLE)
    if problems.found:
        raise ConfigError(problems.found)
    return tuple(dataclasses.replace(key, slot=slot) for slot, key in enumerate(found, 1))


def _named(text: str, problems: Problems) -> list[ApiKey]:
    try:
        tree = read(text)
    except YamlError as exc:
        problems.add("", "", str(exc), allowed="YAML, a mapping from names to keys", example=EXAMPLE)
        return []
    if not isinstance(tree, dict):
        problems.add("", "", "expected a mapping from names to keys", allowed="YAML, or a list", example=EXAMPLE)
        return []
    defaults = _limits(problems, DEFAULT, mapping(problems, DEFAULT, tree.get(DEFAULT), known=LIMITS, example=EXAMPLE))
    found = []
    for name, fields in tree.items():
        if name != DEFAULT:
            problems.parse(name, name, NAME)
            given = mapping(problems, name, fields, known=FIELDS, example=EXAMPLE)
            values: dict[str, Any] = {**defaults, **_limits(problems, name, given), **_secrets(problems, name, given)}
            found.append(ApiKey(name=name, **values))
    if not found:
        problems.add("", "", "no key given", allowed="at least one name besides `default`", example=EXAMPLE)
    return found


def _limits(problems: Problems, name: str, given: Mapping[str, Tree]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field, rule in NUMBERS.items():
        if field in given and (value := scalar(problems, f"{name}.{field}", given[field], rule)) is not None:
            values["burst_s" if field == "burst" else field] = value
    if "models" in given:
        place = f"{name}.models"
        values["models"] = scalars(problems, place, items(problems, place, given["models"], MODEL), MODEL)
        if not values["models"]:
            problems.reject(place, masked_tree(given["models"]), "no model given", MODEL)
    return values


def _secrets(problems: Problems, name: str, given: Mapping[str, Tree]) -> dict[str, Any]:
    """The key's digests, and the files that it is read from."""
    sources = [field for field in ("key", "sha256", "key_file") if field in given]
    if not sources:
        problems.add(name, "", "no key given", allowed="one of key, sha256, key_file", example=EXAMPLE)
    given_digests = scalars(problems, f"{name}.sha256", _listed(given.get("sha256")), SHA256)
    keys = _keys(problems, f"{name}.key", _listed(given.get("key")))
    files = tuple(str(tree) for tree in _listed(given.get("key_file")))
    filed = keys_in_files(problems, name, files)
    from_files = tuple(map(digest, filed))
    return {
        "digests": tuple(dict.fromkeys((*given_digests, *map(digest, keys), *from_files))),
        "files": files,
        "from_files": from_files,
        "guessable": any(len(key) < STRONG_LENGTH for key in (*keys, *filed)),
    }


def keys_in_files(problems: Problems, name: str, files: tuple[str, ...]) -> list[str]:
    place = f"{name}.key_file"
    words: list[Tree] = []
    for path in files:
        words += parsers.words(problems.parse(place, path, KEY_FILE) or "")
    return _keys(problems, place, words)


def _listed(tree: Tree) -> list[Tree]:
    if tree is None:
        return []
    return tree if isinstance(tree, list) else [tree]


def _keys(problems: Problems, place: str, trees: list[Tree]) -> list[str]:
    """The valid ones. Problems do not show them."""
    found = []
    for tree in trees:
        try:
            found.append(parsers.secret(tree if isinstance(tree, str) else ""))
        except ValueError as exc:
            problems.reject(place, "***", str(exc), KEY)
    return found
