"""What people read about the variables, from their table: `berth env`, `berth config`, docs/configuration.md."""

import shlex
import textwrap
from collections.abc import Callable, Mapping
from itertools import groupby

from berth.boot.config import checkout
from berth.boot.config.parsers import SECRET_NAME, SECRET_OPTION
from berth.boot.config.settings import Origin, ResolvedValue, load, resolve
from berth.boot.config.variables import VARIABLES, EnvVar
from berth.errors import BerthError
from berth.plan import Launch, Plan, Replica

_ENV_HEAD = """\
# Berth's environment variables. A commented line shows the default, or an example where there is no default.
# Durations take ms, s, m, h and d (a plain number is seconds); sizes take MB, MiB, GB, GiB and so on.
# An empty value counts as not set. A BERTH_* variable that is not in this list is an error.
"""


def env_text(*, active: tuple[str, ...] = ()) -> str:
    """Every variable as a commented env file, for `docker run --env-file` and Compose; only the active ones are set."""
    parts = [_ENV_HEAD]
    for group, variables in groupby(VARIABLES, key=lambda var: var.group):
        parts.append(f"# --- {group} ---\n")
        parts += [_env_entry(var, active=var.name in active) for var in variables]
    return "\n".join(parts)


def markdown_table() -> str:
    rows = [
        f"| {_names(var)} | {_default(var)} | {_cell(var.allowed)} | {_cell(var.description)} |" for var in VARIABLES
    ]
    return "\n".join(["| variable | default | allowed | description |", "|---|---|---|---|", *rows]) + "\n"


def config_text(environ: Mapping[str, str], make_plan: Callable[[], Plan]) -> str:
    """Every setting with its origin, and what it became on each engine's command line. Secrets are not in it.

    ConfigError for an environment that cannot be; why there is no plan for a good one is part of the text.
    """
    defaults = checkout.defaults(environ)
    load(environ, defaults=defaults)
    lines = [_setting(name, value) for name, value in resolve(environ, defaults=defaults).values.items()]
    try:
        replicas = make_plan().replicas
    except BerthError as error:
        return "\n".join([*lines, "", "No engine can be started with this:", textwrap.indent(str(error), "  ")])
    return "\n".join([*lines, *(line for replica in replicas for line in ("", *_command(replica)))])


def _setting(name: str, value: ResolvedValue) -> str:
    origin = f"file {value.path}" if value.origin is Origin.FILE else str(value.origin)
    text = value.text or "(not set)"
    if "\n" in text:
        text = "\n" + textwrap.indent(text, "    ")
    return f"{name}  [{origin}]  {text}"


def _command(replica: Replica) -> list[str]:
    if replica.launch is None:
        return [f"{replica.name}: attached to {replica.url}"]
    environment = [f"    {name}={shlex.quote(text)}" for name, text in _public(replica.launch).items()]
    own = [f"    {name}=***" for name in replica.launch.own_env]
    return [f"{replica.name}:", *environment, *own, f"    {shlex.join(_public_argv(replica.launch.argv))}"]


def _public(launch: Launch) -> dict[str, str]:
    return {name: "***" if SECRET_NAME.search(name) else text for name, text in launch.env.items()}


def _public_argv(argv: tuple[str, ...]) -> list[str]:
    """The command line with *** after options whose name tells of a secret."""
    shown: list[str] = []
    for previous, word in zip(("", *argv), argv, strict=False):
        option, equals, _ = word.partition("=")
        if SECRET_OPTION.fullmatch(previous):
            shown.append("***")
        elif equals and SECRET_OPTION.fullmatch(option):
            shown.append(f"{option}=***")
        else:
            shown.append(word)
    return shown


def _env_entry(var: EnvVar, *, active: bool) -> str:
    default = var.default or ("none, it must be set" if var.required else "not set")
    words = f"{var.description} Allowed: {var.allowed}. Default: {default}."
    if var.from_file:
        words += f" Or {var.file_name}: the path of a file that holds it."
    comment = textwrap.fill(words, width=110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    line = f"{var.name}={var.default or var.example}"
    return f"{comment}\n{line if active else '#' + line}\n"


def _names(var: EnvVar) -> str:
    return f"`{var.name}` or `{var.file_name}`" if var.from_file else f"`{var.name}`"


def _default(var: EnvVar) -> str:
    if var.default is not None:
        return f"`{var.default}`"
    return "required" if var.required else "not set"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
