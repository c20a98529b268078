"""All secrets that an appliance has: those of its variables, of the files that they name, and of its run directory."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from berth.boot.config import checkout
from berth.boot.config.parsers import read_value, unquoted, words
from berth.boot.config.settings import load
from berth.boot.config.variables import VARIABLES
from berth.boot.config.yaml_text import secret_values
from berth.errors import BerthError
from berth.plan import ApiKey, Keys
from berth.redaction import Redactor, is_secret

_USERINFO: Final = re.compile(r"://([^\s/'\"@<>]+)@")


def redactor_of(environ: Mapping[str, str], keys: Keys) -> Redactor:
    """`keys`: of the run directory; empty ones where Berth does not run."""
    api_keys: tuple[ApiKey, ...] = keys.api_keys
    with suppress(BerthError):  # an invalid configuration: its texts are searched all the same
        api_keys += load(environ, defaults=checkout.defaults(environ)).api_keys
    files = [file for key in api_keys for file in key.files]
    values = [*of_environment(environ), *keys.secrets(), *map(_content, files)]
    return Redactor(values, [*keys.digests(), *(digest for key in api_keys for digest in key.digests)])


def of_environment(environ: Mapping[str, str]) -> Iterable[str]:
    """The values of secret variables, and the passwords in any URL."""
    own = {var.name: var for var in VARIABLES}
    for name, text in environ.items():
        yield from passwords(text)
        var = own.get(name.removesuffix("_FILE"))
        if var is not None and (var.secret or var.from_file):
            value = _content(unquoted(text)) if name.endswith("_FILE") else unquoted(text)
            found = secret_values(value)
            yield from (*found, *passwords(value))
            if var.secret:
                yield value
                yield from () if found else (*words(value), *(part.partition("=")[2] for part in value.split(",")))
        elif is_secret(name) and not name.startswith("BERTH_"):
            yield text


def passwords(text: str) -> Iterable[str]:
    """Of the URLs in a text; a user without a password is a token."""
    for userinfo in _USERINFO.findall(text):
        user, colon, password = userinfo.partition(":")
        secret = password if colon else user
        yield from (secret, unquote(secret))


def _content(path: str) -> str:
    try:
        return read_value(path)
    except ValueError:
        return ""
