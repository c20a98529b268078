"""`berth doctor`: all checks before a start, as one list of findings, also with an invalid configuration."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from berth import __version__, processes
from berth.boot import preflight
from berth.boot.checkpoints.cache import cached_snapshot, hub_cache
from berth.boot.checkpoints.files import TOKENIZERS, HubModel, format_names, has_tokenizer
from berth.boot.checkpoints.local import from_folder
from berth.boot.checkpoints.sources import models_of, reads_files
from berth.boot.config import checkout
from berth.boot.config.api_keys import STRONG_LENGTH
from berth.boot.config.settings import Settings, load
from berth.boot.config.variables import VARIABLES
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import inspect_host
from berth.boot.preflight import Finding, Level, What
from berth.build_form import FORM, VERSION_AND_FORM
from berth.errors import BerthError, ConfigError, ControlError, Problem
from berth.host.gpus import inventory
from berth.host.installed_engines import installed
from berth.plan import EngineName, Plan, RunPaths, read_contract
from berth.state import AttachedFault, ReplicaStatus, State
from berth.units import date, size

# Replaces an invalid BERTH_MODELS, so that the rest of the host can be checked.
NO_MODELS = "none=none@sim"
OFFLINE_REMEDY = (
    "Run `berth fetch` with this data directory where there is a network, or copy it with `berth export` and "
    "`berth import`"
)
MANAGED = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)


def report(environ: Mapping[str, str], *, as_json: bool = False) -> tuple[str, int]:
    """The text, and the exit code: 1 if a check failed."""
    findings = examine(environ)
    code = int(any(finding.level is Level.FAIL for finding in findings))
    if not as_json:
        return as_text(findings), code
    rows = [
        {"level": finding.level, "what": finding.what, "detail": finding.detail, "remedy": finding.remedy}
        for finding in findings
    ]
    document = {"version": __version__, "form": FORM, "ok": code == 0, "findings": rows}
    return json.dumps(document, indent=2, ensure_ascii=False), code


def examine(environ: Mapping[str, str]) -> list[Finding]:
    settings, findings = configuration(environ)
    plan, planned = planning(settings, environ)
    findings += [*planned, *preflight.quoted_variables(environ), *preflight.driver(inventory(environ))]
    replicas = plan.replicas if plan else ()
    checks = [_unless_running(finding, settings) for finding in preflight.checks(settings, replicas)]
    findings += [*checks, *keys(settings), *engines(settings)]
    form = Finding(level=Level.OK, what=What.BERTH, detail=VERSION_AND_FORM)
    return [form, *findings, *attached_servers(settings), *model_files(settings)]


def configuration(environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings without the invalid ones, and what is wrong with those."""
    try:
        settings = load(environ, defaults=checkout.defaults(environ))
    except ConfigError as error:
        return _valid_settings(environ, error.problems), [_problem(problem) for problem in error.problems]
    detail = f"{len(settings.models)} model(s), all variables are valid"
    return settings, [Finding(level=Level.OK, what=What.CONFIG, detail=detail)]


def keys(settings: Settings) -> list[Finding]:
    """Keys that somebody may guess."""
    names = [key.name for key in settings.api_keys if key.guessable]
    if not names:
        return []
    detail = f"keys of BERTH_API_KEYS are shorter than {STRONG_LENGTH} characters: {', '.join(names)}"
    return [Finding(level=Level.WARN, what=What.CONFIG, detail=detail, remedy="Make new ones: `berth key new NAME`")]


def engines(settings: Settings) -> list[Finding]:
    """Installed engines with versions. A missing engine is not a failure: planning fails if a model needs it."""
    found = installed(settings.engine_home)
    if not found:
        detail = f"none below BERTH_ENGINE_HOME={settings.engine_home!r}"
        remedy = f"Set it to the folder of the environments: <home>/{MANAGED[0]}/bin/python"
        return [Finding(level=Level.WARN, what=What.ENGINE, detail=detail, remedy=remedy)]
    rows = [
        f"{engine} {found[engine].version} in {found[engine].home}" if engine in found else f"{engine} is not installed"
        for engine in MANAGED
    ]
    return [Finding(level=Level.OK, what=What.ENGINE, detail=row) for row in rows]


def attached_servers(settings: Settings) -> list[Finding]:
    """Those that get no requests, and why, if this appliance runs: control asks them all the time."""
    paths = RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir)
    try:
        replicas = read_contract(paths.state, State.from_json).replicas if _running(paths) else ()
    except ControlError:  # of another version, or not written yet
        return []
    remedy = "Start the server, or correct its `url`, `api_key` or `model` in BERTH_MODELS"
    return [
        Finding(level=Level.WARN, what=What.ENGINE, detail=f"{one.name} is attached: {one.reason}", remedy=remedy)
        for one in replicas
        if one.status is not ReplicaStatus.READY and one.reason.partition(":")[0] in set(AttachedFault)
    ]


def model_files(settings: Settings) -> list[Finding]:
    """Whether all files of local models are there, and of hub models if they cannot be downloaded."""
    specs = [spec for spec in settings.models if reads_files(spec)]
    local = dict.fromkeys(spec.source for spec in specs if spec.source.startswith("/"))
    hub = dict.fromkeys(model for spec in specs for model in models_of(spec)) if settings.offline else {}
    return [*map(local_files, local), *(cached_files(model, settings.data_dir) for model in hub)]


def local_files(source: str) -> Finding:
    try:
        from_folder(source, Path(source))
        names = [path.name for path in Path(source).iterdir()]
    except ConfigError as error:
        missing = "; ".join(f"{source!r} {problem.reason}" for problem in error.problems)
    except OSError as error:
        missing = f"{source!r} cannot be read: {error.strerror}"
    else:
        if has_tokenizer(names):
            return Finding(level=Level.OK, what=What.MODEL, detail=f"{source!r} is complete")
        missing = f"{source!r} has no tokenizer ({', '.join(TOKENIZERS)})"
    return Finding(level=Level.FAIL, what=What.MODEL, detail=missing, remedy="Copy it again, with all its files")


def cached_files(model: HubModel, data_dir: str) -> Finding:
    """Names the files of one model that the hub's cache lacks."""
    cached = cached_snapshot(hub_cache(data_dir), model)
    if cached.folder is not None and cached.complete:
        return Finding(
            level=Level.OK, what=What.MODEL, detail=f"{model.source!r} is complete in {str(cached.folder)!r}"
        )
    where = str(cached.folder or cached.repository)
    detail = (
        f"{model.source!r} lacks {format_names(cached.missing)} in {where!r}"
        if cached.folder
        else f"no {model.source!r} in {where!r}"
    )
    return Finding(level=Level.FAIL, what=What.MODEL, detail=detail, remedy=OFFLINE_REMEDY)


def _valid_settings(environ: Mapping[str, str], problems: tuple[Problem, ...]) -> Settings:
    """The settings with the invalid variables unset."""
    invalid = {problem.variable.partition(":")[0].removesuffix("_FILE") for problem in problems}
    known = {var.name for var in VARIABLES}
    kept = {
        name: value
        for name, value in environ.items()
        if name.removesuffix("_FILE") not in invalid and (name.removesuffix("_FILE") in known or name[:6] != "BERTH_")
    }
    if "BERTH_MODELS" in invalid:
        return replace(load(kept | {"BERTH_MODELS": NO_MODELS}, defaults=checkout.defaults(kept)), models=())
    return load(kept, defaults=checkout.defaults(kept))


def planning(settings: Settings, environ: Mapping[str, str]) -> tuple[Plan | None, list[Finding]]:
    """The plan with its warnings, or why there is none."""
    if not settings.models:
        return None, []
    try:
        plan = make_plan(settings, inspect_host(settings, environ))
    except BerthError as error:
        problems = error.problems if isinstance(error, ConfigError) else ()
        failure = Finding(level=Level.FAIL, what=What.PLAN, detail=str(error))
        return None, [_problem(problem) for problem in problems] or [failure]
    notes = [Finding(level=Level.WARN, what=What.PLAN, detail=warning) for warning in plan.warnings]
    rows = ", ".join(f"{replica.name} ({replica.reason})" for replica in plan.replicas)
    return plan, [Finding(level=Level.OK, what=What.PLAN, detail=rows), *notes, *memory_figures(plan)]


def memory_figures(plan: Plan) -> list[Finding]:
    """What each engine takes of each GPU: measured at an earlier start next to what would be planned without."""
    findings = []
    for one in plan.replicas:
        if one.memory is None or one.measured_as is None:
            continue
        memory = one.memory
        pairs = (
            ("weights", memory.weights_bytes, memory.estimated_weights_bytes),
            ("overhead", memory.overhead_bytes, memory.estimated_overhead_bytes),
        )
        if memory.measured:
            figures = ", ".join(f"{what} {size(real)} (estimated {size(guess)})" for what, real, guess in pairs)
            detail = (
                f"{one.name}: measured {date(memory.measured)} per GPU: {figures}, KV cache {size(memory.kv_bytes)}"
            )
        else:
            figures = ", ".join(f"{what} {size(guess)}" for what, guess, _ in pairs)
            detail = f"{one.name}: estimated per GPU: {figures}, KV cache {size(memory.kv_bytes)}; not measured yet"
        findings.append(Finding(level=Level.OK, what=What.PLAN, detail=detail))
    return findings


def _unless_running(finding: Finding, settings: Settings) -> Finding:
    """A port in use is not a failure if it is this appliance that uses it."""
    if finding.what is not What.PORT or finding.level is not Level.FAIL:
        return finding
    pid = _running(RunPaths(run_dir=settings.run_dir, data_dir=settings.data_dir))
    if pid is None:
        return finding
    detail = f"{settings.host}:{settings.port} is in use by this appliance (supervisord has pid {pid})"
    return Finding(level=Level.OK, what=What.PORT, detail=detail)


def _running(paths: RunPaths) -> int | None:
    """The pid of its supervisord, if an appliance runs with this run directory."""
    record = processes.read_record(processes.supervisor_record(paths))
    return record.pid if record is not None and record.alive() else None


def _problem(problem: Problem) -> Finding:
    given = f"={problem.value!r}" if problem.value else ""
    return Finding(
        level=Level.FAIL,
        what=What.CONFIG,
        detail=f"{problem.variable}{given}: {problem.reason}",
        remedy=f"Allowed: {problem.allowed}. Example: {problem.example}",
    )


def as_text(findings: list[Finding]) -> str:
    """One line per finding, its remedy below it, and a summary."""
    lines = []
    for finding in findings:
        first, *others = finding.detail.splitlines() or [""]
        lines.append(f"{finding.level.upper():<5} {finding.what:<15} {first}")
        lines += [f"{'':<22}{line}" for line in others]
        lines += [f"{'':<22}-> {finding.remedy}"] if finding.remedy else []
    failed, warned = (sum(finding.level is level for finding in findings) for level in (Level.FAIL, Level.WARN))
    if failed:
        summary = f"{failed} failed, {warned} warning(s): Berth would not start."
    else:
        summary = f"Nothing failed, {warned} warning(s): Berth would start."
    return "\n".join([*lines, "", summary])
