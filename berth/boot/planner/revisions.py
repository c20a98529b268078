"""Which revision of each model a plan starts. Pure.

BERTH_MODELS always wins: a model whose entry has changed since its last revision gets a new one, as the entry says.
While the entry is unchanged, the revision that was promoted last is started, also where a migration has promoted it.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from berth.boot.config.model_changes import changed
from berth.boot.config.model_spec import AdapterSpec, EngineSpec, ModelSpec
from berth.boot.config.parsers import masked_url
from berth.boot.config.settings import Settings
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel
from berth.errors import ConfigError
from berth.log_lines import mask_secrets
from berth.plan import Author, Revision
from berth.records.revisions import History, digest
from berth.units import date

_SHORT_COMMIT = 12
_UNNAMED = frozenset({"name", "engines", "options"})


def revised(specs: Sequence[ModelSpec], revisions: Sequence[Revision]) -> tuple[ModelSpec, ...]:
    """The models with the changes of their revisions, and their engines in the order of those."""
    known = {one.model: one for one in revisions}

    def as_promoted(spec: ModelSpec) -> ModelSpec:
        one = known.get(spec.name)
        if one is None:
            return spec
        spec = changed(spec, one.changes) if one.changes else spec
        if sorted(one.order) != list(range(len(spec.engines))):
            return spec
        return replace(spec, engines=tuple(spec.engines[place] for place in one.order))

    return tuple(map(as_promoted, specs))


def as_promoted(settings: Settings, history: History) -> Settings:
    """The models as the revisions that are still those of BERTH_MODELS, unless they are ignored."""
    if settings.revision == "env":
        return settings
    found = ((spec, history.promoted(spec.name)) for spec in settings.models)
    current = [one for spec, one in found if one is not None and is_current(one, spec, history.key)]
    return replace(settings, models=revised(settings.models, current))


def is_current(one: Revision, spec: ModelSpec, key: bytes) -> bool:
    """It is one of what BERTH_MODELS says, and this Berth knows all that it changes."""
    if one.base != _base(spec, key):
        return False
    try:
        changed(spec, one.changes)
    except ConfigError:
        return False
    return True


def planned(
    specs: Sequence[ModelSpec], models: Sequence[ResolvedModel], host: HostInfo, *, ignored: bool
) -> Iterator[Revision]:
    """The revision of each model that is started now. `specs`: as BERTH_MODELS has them; `models`: as they are started.
    `ignored`: what migrations promoted does not count.
    """
    history = host.history
    for spec, model in zip(specs, models, strict=True):
        said, versions = says(model.spec, history.key), _versions(model, host)
        last, base = history.promoted(spec.name), _base(spec, history.key)
        is_known = last is not None and is_current(last, spec, history.key)
        if last is not None and is_known and not (ignored and last.says != said):
            yield replace(last, versions=versions)
            continue
        order = tuple(range(len(spec.engines)))
        if last is not None and last.says == said:  # the order that was promoted is in BERTH_MODELS now
            yield replace(last, v=1, base=base, order=order, changes=(), versions=versions)
            continue
        yield Revision(
            model=spec.name,
            number=history.next_number(spec.name),
            at=host.now,
            by=Author.ENV,
            base=base,
            order=order,
            engines=labels(model.spec.engines),
            says=said,
            versions=versions,
        )


def notes(revisions: Sequence[Revision], history: History) -> Iterator[str]:
    """What the operator must know of the revisions that are started, and of the history."""
    if history.problem:
        yield f"revisions are ignored: {history.problem}"
    for one in revisions:
        last = history.promoted(one.model)
        if last is not None and last.by is not Author.ENV and one.number > last.number:
            what = ", ".join(part for part in (last.says.get("engines", ""), *last.changes) if part)
            yield f"{one.model}: revision {one.number} is what BERTH_MODELS says, in place of {last.number} ({what})"
        is_moved = one.order != tuple(sorted(one.order))
        if one.by is not Author.ENV and (is_moved or one.changes):
            engines = one.says.get("engines", "")
            what = ", ".join(part for part in (engines, *one.changes) if part)
            since = f"revision {one.number} ({what}, by {one.by} on {date(one.at)}); BERTH_MODELS is unchanged since"
            kept = [f"engines: [{engines}]"] * is_moved + [kept_as(line) for line in one.changes]
            yield f"{one.model}: {since}. To keep it without the history: {', '.join(kept)}"


def kept_as(change: str) -> str:
    """As the entry of BERTH_MODELS has it: "vllm: {args: [--max-num-seqs, '64']}"."""
    name, _equals, text = change.partition("=")
    words = f"args: {shlex.split(text)}"
    place, dot, _args = name.rpartition(".")
    return (f"{place}: {{{words}}}" if place else words) if dot or name == "args" else f"{name}: {text or 'null'}"


def says(spec: ModelSpec, key: bytes) -> dict[str, str]:
    """What is configured for a model, by field. `key`: of the digests that stand for secrets."""
    given = {
        one.name.removesuffix("_bytes").removesuffix("_s"): _text(value)
        for one in fields(ModelSpec)
        if one.name not in _UNNAMED
        and ((value := getattr(spec, one.name)) != one.default or one.name == "source")
        and value not in ({}, ())
    }
    if spec.engines:
        given["engines"] = ", ".join(labels(spec.engines))
    for name, options in spec.options.items():
        given |= _entry(name, options.args, options.env, key)
    for entry in spec.engines:
        given |= _entry(label(entry), entry.args, entry.env, key)
        rest: dict[str, object] = {"weights": entry.weights, "model": entry.remote_name, "continues": entry.continues}
        rest |= {"batch": entry.batch, "share": None if entry.share == 1 else entry.share}
        rest["api_key"] = entry.api_key and digest(key, entry.api_key)
        given |= {f"{label(entry)}.{what}": str(value) for what, value in rest.items() if value is not None}
    return given


def labels(entries: Sequence[EngineSpec]) -> tuple[str, ...]:
    """Of several with the same name, with their arguments: those distinguish them in any order."""
    names = [label(entry) for entry in entries]
    pairs = zip(names, entries, strict=True)
    return tuple(
        mask_secrets(" ".join((name, *entry.args))) if names.count(name) > 1 else name for name, entry in pairs
    )


def label(entry: EngineSpec) -> str:
    """As in BERTH_MODELS."""
    if entry.url is not None:
        return masked_url(entry.url)
    return f"{entry.engine}:{entry.dialect}" if entry.dialect else entry.engine.value


def _entry(name: str, args: Sequence[str], env: Mapping[str, str], key: bytes) -> dict[str, str]:
    given = {f"{name}.args": mask_secrets(" ".join(args))} if args else {}
    return given | {f"{name}.env.{variable}": digest(key, value) for variable, value in env.items()}


def _base(spec: ModelSpec, key: bytes) -> str:
    """Several engines may have the same name: each counts, in its place."""
    engines = [(one.url, one.args, sorted(one.env.items()), one.api_key) for one in spec.engines]
    return digest(key, repr((sorted(says(spec, key).items()), engines)))


def _versions(model: ResolvedModel, host: HostInfo) -> dict[str, str]:
    found = {
        one.engine.value: host.installed[one.engine].version for one in model.entries if one.engine in host.installed
    }
    commit = model.info.commit if model.info else None
    return found | ({"source": commit[:_SHORT_COMMIT]} if commit else {})


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value.name}={value.source}" if isinstance(value, AdapterSpec) else str(value)
