"""Reference texts generated from the table of variables: `berth env`, `berth config`, docs/configuration.md."""

import shlex
import textwrap
from collections.abc import Callable, Mapping
from itertools import groupby, pairwise

from berth.boot.config import checkout
from berth.boot.config.parsers import SECRET_NAME, SECRET_OPTION, masked_option
from berth.boot.config.settings import Origin, load, resolve
from berth.boot.config.variables import VARIABLES
from berth.errors import BerthError
from berth.plan import Configured, Plan, Replica

_ENV_HEAD = """\
# Berth's environment variables. A commented line shows the default, or an example if there is no default.
# Durations take ms, s, m, h and d (a plain number is seconds); sizes take MB, MiB, GB, GiB and so on.
# An empty value counts as not set. A BERTH_* variable that is not in this list is an error.
"""


def env_text(*, active: tuple[str, ...] = ()) -> str:
    """Every variable as a commented env file, for `docker run --env-file` and Compose; only the active ones are set."""
    parts = [_ENV_HEAD]
    for group, variables in groupby(VARIABLES, key=lambda var: var.group):
        parts.append(f"# --- {group} ---\n")
        for var in variables:
            default = var.default or ("none, it must be set" if var.required else "not set")
            text = f"{var.description} Allowed: {var.allowed}. Default: {default}."
            if var.from_file:
                text += f" Or {var.file_name}: the path of a file that holds it."
            comment = textwrap.fill(
                text, width=110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
            )
            line = f"{var.name}={var.default or var.example}"
            parts.append(f"{comment}\n{line if var.name in active else '#' + line}\n")
    return "\n".join(parts)


def markdown_table() -> str:
    rows = ["| variable | default | allowed | description |", "|---|---|---|---|"]
    for var in VARIABLES:
        names = f"`{var.name}` or `{var.file_name}`" if var.from_file else f"`{var.name}`"
        default = f"`{var.default}`" if var.default is not None else "required" if var.required else "not set"
        allowed, description = (text.replace("|", "\\|") for text in (var.allowed, var.description))
        rows.append(f"| {names} | {default} | {allowed} | {description} |")
    return "\n".join(rows) + "\n"


def config_text(environ: Mapping[str, str], make_plan: Callable[[], Plan]) -> str:
    """Every setting with its origin, and the resulting command line of each engine. Secrets are masked.

    ConfigError for an invalid environment. If a valid one gives no plan, the text says why.
    """
    load(environ, defaults=checkout.defaults(environ))
    lines = []
    for one in configuration(environ):
        text = one.value or "(not set)"
        if "\n" in text:
            text = "\n" + textwrap.indent(text, "    ")
        lines.append(f"{one.name}  [{one.origin}]  {text}")
    try:
        replicas = make_plan().replicas
    except BerthError as error:
        return "\n".join([*lines, "", "No engine can be started with this:", textwrap.indent(str(error), "  ")])
    return "\n".join([*lines, *(line for replica in replicas for line in ("", *command_lines(replica)))])


def configuration(environ: Mapping[str, str]) -> tuple[Configured, ...]:
    """Every variable with its origin, secrets masked. ConfigError if one cannot be read."""
    values = resolve(environ, defaults=checkout.defaults(environ)).items()
    return tuple(
        Configured(
            name=name,
            value=value.text,
            origin=f"file {value.path}" if value.origin is Origin.FILE else str(value.origin),
        )
        for name, value in values
    )


def command_lines(replica: Replica) -> list[str]:
    """Environment and command line, with *** in place of secrets."""
    if replica.launch is None:
        return [f"{replica.name}: attached to {replica.url}"]
    lines = [f"{replica.name}:"]
    for name, text in replica.launch.env.items():
        lines.append(f"    {name}={shlex.quote('***' if SECRET_NAME.search(name) else text)}")
    lines += [f"    {name}=***" for name in replica.launch.own_env]
    argv = []
    for previous, word in pairwise(("", *replica.launch.argv)):
        argv.append("***" if SECRET_OPTION.fullmatch(previous) else masked_option(word))
    return [*lines, f"    {shlex.join(argv)}"]
