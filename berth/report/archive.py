"""The archive: every part masked, and a page in front that says what is in it and what is missing."""

import io
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Final

import psutil

from berth import __version__
from berth.boot.config import checkout, settings
from berth.boot.config.settings import resolve
from berth.errors import BerthError, ConfigError, ControlError, UnwritableError
from berth.plan import Keys, RunPaths, read_keys, read_plan
from berth.redaction import Redactor
from berth.report.parts import LOG_LINES, OF_ENVIRONMENT, PARTS, Box, log_tail, planned
from berth.report.secrets import redactor_of

PART_CHARACTERS: Final = 4 << 20  # the end of a part counts: that is where logs and lists have the newest
_HEAD: Final = """\
A report of Berth {version}, made at {moment}.

Secrets were replaced by ***: values of secret variables and of the files that they name, keys, passwords in URLs,
and what looks like one of them. Prompts and responses are not in it, unless an engine is set to log them. Names of
models, clients and machines are. Read it before you pass it on.

The container's own log is not in it, because only the container's host has that:
    docker logs --since 1h CONTAINER > berth.log 2>&1
"""


def report(environ: Mapping[str, str], output: str, run_dir: str = "") -> int:
    """Writes the archive into the file `output`; "-" is the standard output. `run_dir`: a program of the appliance that
    runs there asks, and has not its environment. Returns the exit code. UnwritableError for a file that cannot be
    written.
    """
    name = time.strftime("berth-report-%Y%m%d-%H%M%S")
    environ, whole = of_appliance(environ, run_dir) if run_dir else (environ, True)
    texts = collected(environ, whole=whole)
    try:
        if output == "-":
            write(sys.stdout.buffer, name, texts)
        else:
            output = output or f"{name}.tar.gz"
            with Path(output).open("xb") as file:
                write(file, name, texts)
    except OSError as error:
        raise UnwritableError(f"Cannot write {output!r}: {error.strerror}. Name another file with -o") from error
    sys.stderr.write(texts["README.txt"] + f"\nWritten to {'standard output' if output == '-' else output}.\n")
    return 0


def collected(environ: Mapping[str, str], *, whole: bool = True) -> dict[str, str]:
    """The texts of all parts that there are, by their names, without secrets. `whole`: the environment has Berth's
    variables.
    """
    box = box_of(environ)
    redactor = redactor_of(environ, box.keys)
    logs = sorted(box.paths.logs.glob("*.log")) if box.paths.logs.is_dir() else []
    parts: dict[str, Callable[[], str]] = {name: partial(part, box) for name, part in PARTS.items()}
    if not whole:
        parts |= dict.fromkeys(OF_ENVIRONMENT, without_environment) | {"configuration.txt": partial(planned, box)}
    parts |= {f"logs/{path.name}": partial(log_tail, path) for path in logs}
    texts, missing = {}, []
    for name, part in parts.items():
        try:
            text = part()
        except (BerthError, OSError, ValueError) as error:
            missing.append(f"{name}: {redactor.text(reason(error))}")
        except Exception as error:  # noqa: BLE001 - the boundary of a part: what is damaged is what a report is for
            missing.append(f"{name}: {type(error).__name__}: {redactor.text(str(error))}")
        else:
            texts[name] = redactor.text(text)[-PART_CHARACTERS:].rstrip("\n") + "\n"
    if not logs:
        missing.append(f"logs: there are none in {str(box.paths.logs)!r}")
    return {"README.txt": front(texts, missing, redactor), **texts}


def of_appliance(environ: Mapping[str, str], run_dir: str, first_pid: int = 1) -> tuple[Mapping[str, str], bool]:
    """The environment of the appliance that runs there, and whether it is the whole one: that of the container's first
    process. Berth gives its programs, whose `environ` this is, no settings and no secrets.
    """
    with suppress(psutil.Error):
        first = psutil.Process(first_pid).environ()
        found = any(name.startswith("BERTH_") for name in first)
        if found and settings.run_dir(first, defaults=checkout.defaults(first)) == run_dir:
            return first, True
    return {**environ, "BERTH_RUN_DIR": run_dir, "BERTH_DATA": read_plan(run_dir).paths.data_dir}, False


def without_environment() -> str:
    raise ControlError("it needs the environment that Berth was started with: use `berth report` in the container")


def box_of(environ: Mapping[str, str]) -> Box:
    """Also of an appliance whose configuration is invalid, or which does not run."""
    defaults = checkout.defaults(environ)
    folder = settings.run_dir(environ, defaults=defaults)
    try:
        values = resolve(environ, defaults=defaults)
        data_dir, home = values["BERTH_DATA"].text, values["BERTH_ENGINE_HOME"].text
    except ConfigError:
        data_dir = environ.get("BERTH_DATA") or defaults.get("BERTH_DATA", "/data")
        home = environ.get("BERTH_ENGINE_HOME") or defaults.get("BERTH_ENGINE_HOME", "/opt/engines")
    try:
        keys = read_keys(folder)
    except ControlError:
        keys = Keys()
    return Box(environ=environ, paths=RunPaths(run_dir=folder, data_dir=data_dir), engine_home=home, keys=keys)


def reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
    return str(error) or type(error).__name__


def front(texts: Mapping[str, str], missing: list[str], redactor: Redactor) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S %z")
    sizes = [f"    {name}  {len(text):,} characters" for name, text in texts.items()]
    lines = [
        _HEAD.format(version=__version__, moment=moment),
        f"In it, logs with their last {LOG_LINES} lines:",
        *sizes,
    ]
    if missing:
        lines += ["", "Missing, and why:", *(f"    {line}".replace("\n", "\n      ") for line in missing)]
    return redactor.text("\n".join(lines)) + "\n"


def write(file: IO[bytes], folder: str, texts: Mapping[str, str]) -> None:
    """As tar.gz. Only its owner can read what is in it."""
    with tarfile.open(fileobj=file, mode="w|gz") as archive:
        for name, text in texts.items():
            data = text.encode("utf-8", "replace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
