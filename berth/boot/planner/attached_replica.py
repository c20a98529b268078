"""Attached servers: where they are, and the replicas that they become.

They are asked what they are when the plan is made. Berth starts without one that does not answer
in time: control asks it again when it is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from berth.boot.config.models import EngineSpec
from berth.boot.planner.attached.address import Address
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel
from berth.dialects.attached.detection import Discovery, settle
from berth.engines.registry import probes
from berth.plan import API_PATH, DialectName, EngineName, Replica, Task

_NAMES_SHOWN = 8


def discovered(models: Sequence[ResolvedModel], names: Sequence[Sequence[str]], host: HostInfo) -> dict[str, Discovery]:
    """What each attached server says of itself, by the name of its replica."""
    addresses = {
        name: address(entry, model.spec.name)
        for model, row in zip(models, names, strict=True)
        for entry, name in zip(model.entries, row, strict=True)
        if entry.engine is EngineName.REMOTE
    }
    return dict(zip(addresses, host.discover(tuple(addresses.values())), strict=True))


def address(entry: EngineSpec, model: str) -> Address:
    """A base URL is that of OpenAI's clients. There are three cases: 1. it ends in /v1; 2. a bare host has its API
    below /v1, or at its root; 3. any other path is where the API is, or what is in front of /v1.
    """
    url, name = entry.url or "", entry.remote_name or model
    if url.endswith(API_PATH):
        return Address(
            url=url.removesuffix(API_PATH).rstrip("/"), api_paths=(API_PATH,), name=name, api_key=entry.api_key
        )
    at_root = urlsplit(url).path or entry.dialect is DialectName.INFINITY
    return Address(url=url, api_paths=("", API_PATH) if at_root else (API_PATH, ""), name=name, api_key=entry.api_key)


def attached_replica(model: ResolvedModel, entry: EngineSpec, name: str, found: Discovery) -> Replica:
    dialect = entry.dialect or DialectName.OPENAI
    configured = Replica(
        name=name,
        model=model.spec.name,
        engine=entry.engine,
        dialect=dialect,
        task=model.task,
        url=address(entry, model.spec.name).url,
        api_path=found.api_path,
        served_name=entry.remote_name or model.spec.name,
        context=model.spec.context,
        share=entry.share,
        concurrency=model.spec.concurrency or (1 if dialect is DialectName.LLAMACPP_PYTHON else None),
        batch=entry.batch,
        weights=entry.weights or "",
        pass_fields=model.spec.pass_fields,
        continues=entry.continues,
        detects=entry.dialect is None,
        unreached=not found.reached,
        ready=probes(entry.engine, dialect)[0],
        alive=probes(entry.engine, dialect)[1],
        reason="attached by its URL; it does not answer now, and is asked what it is as soon as it does",
    )
    if not found.reached:
        return configured
    known = configured.as_discovered(settle(configured, found))
    ready, alive = probes(entry.engine, known.dialect)
    reason = "attached by its URL" if entry.dialect else "attached by its URL, which says what it is"
    return replace(known, ready=ready, alive=alive, reason=reason)


def attached_warnings(replicas: Sequence[Replica], found: Mapping[str, Discovery]) -> list[str]:
    """Of names that a server does not have, unknown contexts, and streams that will not be continued."""
    notes = []
    for replica in filter(lambda one: one.name in found, replicas):
        names = found[replica.name].names
        if len(names) > 1 and replica.served_name not in names:
            listed = ", ".join(names[:_NAMES_SHOWN]) + (" ..." if len(names) > _NAMES_SHOWN else "")
            notes.append(f"{replica.name}: the server has no {replica.served_name!r}; name one as `model`: {listed}")
        if replica.dialect is DialectName.OLLAMA and replica.context is None:
            notes.append(f"{replica.name}: Ollama cuts prompts to its default context in silence; set `context`")
        others = [one for one in replicas if one.model == replica.model and one is not replica]
        if others and replica.task is Task.GENERATE and not any(map(replica.same_weights, others)):
            reason = "the weights of the others may be different; where they are not, give all of them one `weights`"
            notes.append(f"{replica.name}: its streams are not continued by another engine: {reason}")
    return notes
