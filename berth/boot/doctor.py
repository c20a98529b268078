"""`berth doctor`: everything that can be checked before a start, in one list, also with a broken configuration."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from berth import __version__, processes
from berth.boot import preflight
from berth.boot.checkpoints.cache import cached_snapshot, hub_cache
from berth.boot.checkpoints.files import TOKENIZERS, HubModel, format_names, has_tokenizer
from berth.boot.checkpoints.local import from_folder
from berth.boot.checkpoints.sources import models_of, reads_files
from berth.boot.config import checkout
from berth.boot.config.settings import Settings, load
from berth.boot.config.variables import VARIABLES
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import look
from berth.boot.preflight import Finding, Level, What
from berth.errors import BerthError, ConfigError, PlacementError, Problem
from berth.host.gpus import inventory
from berth.host.installed_engines import installed
from berth.plan import EngineName, Plan, RunPaths

# Stands in for a BERTH_MODELS that cannot be read, so that the rest of the machine can be looked at.
NO_MODELS = "none=none@sim"
OFFLINE_REMEDY = (
    "Run `berth fetch` with this data directory where there is a network, or bring it here with `berth export` and "
    "`berth import`"
)
MANAGED = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)


def report(environ: Mapping[str, str], *, as_json: bool = False) -> tuple[str, int]:
    """The text, and the exit code: 1 if anything failed."""
    findings = examine(environ)
    code = int(any(finding.level is Level.FAIL for finding in findings))
    return (_json(findings) if as_json else _text(findings)), code


def examine(environ: Mapping[str, str]) -> list[Finding]:
    settings, findings = configuration(environ)
    plan, planned = _planned(settings, environ)
    findings += [*planned, *preflight.driver(inventory(environ))]
    replicas = plan.replicas if plan else ()
    checks = [_unless_ours(finding, settings) for finding in preflight.checks(settings, replicas)]
    return [*findings, *checks, *engines(settings), *model_files(settings)]


def configuration(environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings as far as they can be read, and what is wrong with the others."""
    try:
        settings = load(environ, defaults=checkout.defaults(environ))
    except ConfigError as error:
        return _rest(environ, error.problems), [_problem(problem) for problem in error.problems]
    detail = f"{len(settings.models)} model(s), all variables are in order"
    return settings, [Finding(level=Level.OK, what=What.CONFIG, detail=detail)]


def engines(settings: Settings) -> list[Finding]:
    """What is installed, with versions. A missing engine is no failure: planning says so if a model needs it."""
    found = installed(settings.engine_home)
    rows = [
        f"{engine} {found[engine].version} in {found[engine].home}" if engine in found else f"{engine} is not installed"
        for engine in MANAGED
    ]
    if not found:
        detail = f"none below BERTH_ENGINE_HOME={settings.engine_home!r}"
        remedy = f"Set it to the folder of the environments: <home>/{MANAGED[0]}/bin/python"
        return [Finding(level=Level.WARN, what=What.ENGINE, detail=detail, remedy=remedy)]
    return [Finding(level=Level.OK, what=What.ENGINE, detail=row) for row in rows]


def model_files(settings: Settings) -> list[Finding]:
    """Local models, and everything of the hub when it cannot be downloaded: are all files there?"""
    specs = [spec for spec in settings.models if reads_files(spec)]
    local = dict.fromkeys(spec.source for spec in specs if spec.source.startswith("/"))
    hub = dict.fromkeys(model for spec in specs for model in models_of(spec)) if settings.offline else {}
    return [*map(local_files, local), *(cached_files(model, settings.data_dir) for model in hub)]


def local_files(source: str) -> Finding:
    missing = _missing(source, Path(source))
    if not missing:
        return Finding(level=Level.OK, what=What.MODEL, detail=f"{source!r} is whole")
    return Finding(level=Level.FAIL, what=What.MODEL, detail=missing, remedy="Copy it again, with all its files")


def cached_files(model: HubModel, data_dir: str) -> Finding:
    """Names what the hub's cache lacks of one model."""
    here = cached_snapshot(hub_cache(data_dir), model)
    if here.folder is not None and here.complete:
        return Finding(level=Level.OK, what=What.MODEL, detail=f"{model.source!r} is whole in {str(here.folder)!r}")
    where = str(here.folder or here.repository)
    detail = (
        f"{model.source!r} lacks {format_names(here.missing)} in {where!r}"
        if here.folder
        else f"no {model.source!r} in {where!r}"
    )
    return Finding(level=Level.FAIL, what=What.MODEL, detail=detail, remedy=OFFLINE_REMEDY)


def _missing(source: str, folder: Path) -> str:
    """In words; "" for a whole model."""
    try:
        from_folder(source, folder)
        names = [path.name for path in folder.iterdir()]
    except ConfigError as error:
        return "; ".join(f"{source!r} {problem.reason}" for problem in error.problems)
    except OSError as error:
        return f"{source!r} cannot be read: {error.strerror}"
    return "" if has_tokenizer(names) else f"{source!r} has no tokenizer ({', '.join(TOKENIZERS)})"


def _rest(environ: Mapping[str, str], problems: tuple[Problem, ...]) -> Settings:
    """The settings less the variables that are wrong: those count as not set."""
    wrong = {problem.variable.partition(":")[0].removesuffix("_FILE") for problem in problems}
    known = {var.name for var in VARIABLES}
    kept = {
        name: value
        for name, value in environ.items()
        if name.removesuffix("_FILE") not in wrong and (name.removesuffix("_FILE") in known or name[:6] != "BERTH_")
    }
    if "BERTH_MODELS" in wrong:
        return replace(load(kept | {"BERTH_MODELS": NO_MODELS}, defaults=checkout.defaults(kept)), models=())
    return load(kept, defaults=checkout.defaults(kept))


def _planned(settings: Settings, environ: Mapping[str, str]) -> tuple[Plan | None, list[Finding]]:
    if not settings.models:
        return None, []
    try:
        plan = make_plan(settings, look(settings, environ))
    except PlacementError as error:
        return None, [Finding(level=Level.FAIL, what=What.PLAN, detail=str(error))]
    except ConfigError as error:
        return None, [_problem(problem) for problem in error.problems]
    except BerthError as error:
        return None, [Finding(level=Level.FAIL, what=What.PLAN, detail=str(error))]
    notes = [Finding(level=Level.WARN, what=What.PLAN, detail=warning) for warning in plan.warnings]
    rows = ", ".join(f"{replica.name} ({replica.reason})" for replica in plan.replicas)
    return plan, [Finding(level=Level.OK, what=What.PLAN, detail=rows), *notes]


def _unless_ours(finding: Finding, settings: Settings) -> Finding:
    """The port of an appliance that runs already is in use by the very one we were asked about."""
    if finding.what is not What.PORT or finding.level is not Level.FAIL:
        return finding
    paths = RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir)
    record = processes.read_record(processes.supervisor_record(paths))
    if record is None or not record.alive():
        return finding
    detail = f"{settings.host}:{settings.port} is taken, and this appliance runs already (supervisord: {record.pid})"
    return Finding(level=Level.OK, what=What.PORT, detail=detail)


def _problem(problem: Problem) -> Finding:
    given = f"={problem.value!r}" if problem.value else ""
    return Finding(
        level=Level.FAIL,
        what=What.CONFIG,
        detail=f"{problem.variable}{given}: {problem.reason}",
        remedy=f"Allowed: {problem.allowed}. Example: {problem.example}",
    )


def _json(findings: list[Finding]) -> str:
    rows = [
        {"level": finding.level, "what": finding.what, "detail": finding.detail, "remedy": finding.remedy}
        for finding in findings
    ]
    ok = all(finding.level is not Level.FAIL for finding in findings)
    return json.dumps({"version": __version__, "ok": ok, "findings": rows}, indent=2, ensure_ascii=False)


def _text(findings: list[Finding]) -> str:
    return "\n".join([*(line for finding in findings for line in _lines(finding)), "", _summary(findings)])


def _lines(finding: Finding) -> Iterator[str]:
    first, *others = finding.detail.splitlines() or [""]
    yield f"{finding.level.upper():<5} {finding.what:<15} {first}"
    for line in [*others, *([f"-> {finding.remedy}"] if finding.remedy else [])]:
        yield f"{'':<22}{line}"


def _summary(findings: list[Finding]) -> str:
    failed, warned = (sum(finding.level is level for finding in findings) for level in (Level.FAIL, Level.WARN))
    if failed:
        return f"{failed} failed, {warned} warning(s): Berth would not start."
    return f"Nothing failed, {warned} warning(s): Berth would start."
