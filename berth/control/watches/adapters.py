"""Watches the folders of models with `adapter_folder`: each folder in one is a LoRA adapter, by its own name.

1. An adapter that appears is added as with `berth adapters MODEL add`, once its files are complete and have not changed
   between two looks. One that is being copied is waited for.
2. One that disappears is removed; not before the second look, since a folder may be replaced by renaming. Where the
   watched folder itself cannot be read, nothing is removed.
3. One that cannot be added is named in the log and by `berth adapters`, with the reason, and tried again at each look:
   slots become free. What is not complete counts as such only after a while.
4. A name stands for the same files until the container restarts: engines may still have what they computed with them.
   Files that change are reported, and what was loaded stays.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from berth.control.decisions.records import Observation
from berth.control.operations import adapters
from berth.control.runtime import Runtime
from berth.ipc.operations import AdapterChange, AdapterStatus
from berth.log import log
from berth.lora_files import CONFIG, WEIGHTS, AdapterError, described, files_in, incomplete_reason
from berth.plan import Adapter, ModelRoute

MOST: Final = 1000  # folders of one model that are looked at
_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff@,/]{1,200}")

Seen = Mapping[str, str]  # by the adapter's name: a digest of its files' names, sizes and times


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A folder, as it was seen last."""

    digest: str
    since: float
    adapter: Adapter | None = None  # None: not judged yet, or none
    problem: str = ""


class AdapterWatch:
    def __init__(self, runtime: Runtime, observation: Callable[[], Observation]) -> None:
        self._routes = [route for route in runtime.plan.models if route.adapter_folder]
        self._runtime = runtime
        self._operations = runtime.operations
        self._observation = observation
        self._found: dict[str, dict[str, Found]] = {route.name: {} for route in self._routes}
        self._missing: dict[str, set[str]] = {route.name: set() for route in self._routes}
        self._ignored: dict[str, dict[str, str]] = {route.name: {} for route in self._routes}  # why, by name

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._routes:
            for route in self._routes:
                await self.look(route, time.monotonic())
            await asyncio.sleep(self._runtime.timing.adapter_poll_s)

    def ignored(self, model: str) -> tuple[AdapterStatus, ...]:
        """What is in the folder of a model, by its name or an alias, and was not added."""
        routes = (route for route in self._routes if model in (route.name, *route.aliases))
        return tuple(
            AdapterStatus(name=name, source=str(Path(route.adapter_folder, name)), problem=problem)
            for route in routes
            for name, problem in self._ignored[route.name].items()
        )

    async def look(self, route: ModelRoute, now: float) -> None:
        folder, problems = Path(route.adapter_folder), dict[str, str]()
        try:
            seen = await asyncio.to_thread(listed, folder)
        except OSError as error:
            self._report(route, {"": f"the folder cannot be read: {error.strerror}"})
            return
        before, known = self._operations.kept, self._found[route.name]
        for name, digest in seen.items():
            last = known.get(name)
            if last is None or last.digest != digest:
                known[name] = Found(digest=digest, since=now)
                continue
            if last.adapter is None:
                known[name] = last = await asyncio.to_thread(judged, last, folder / name)
            if last.adapter is None and now - last.since < self._runtime.timing.adapter_settles_s:
                continue  # it is being copied
            if problem := last.problem or self._add(route, name, last):
                problems[name] = problem
        self._remove(route, seen)
        for name in known.keys() - seen.keys():
            del known[name]
        if self._operations.kept != before:
            self._runtime.changed.set()
        self._report(route, problems)

    def _add(self, route: ModelRoute, name: str, found: Found) -> str:
        """The reason why it is not added."""
        kept, own = self._operations.kept, self._operations.kept.watched.get(route.name, {})
        if own.get(name, found.digest) != found.digest:
            return "its files have changed, and engines keep what they had: use another name, or restart Berth"
        reply, kept = adapters.ask(AdapterChange(model=route.name, add=found.adapter), self._observation(), kept)
        if reply.denial is not None:
            return reply.denial.message
        if name not in own:
            kept = replace(kept, watched={**kept.watched, route.name: {**own, name: found.digest}})
        if kept.adapters != self._operations.kept.adapters:
            log.info("adapter found", model=route.name, adapter=name)
        self._operations.kept = kept
        return ""

    def _remove(self, route: ModelRoute, seen: Seen) -> None:
        """Those of the folder that are missing for the second time."""
        kept, folder = self._operations.kept, Path(route.adapter_folder)
        watched = kept.watched.get(route.name, {})
        missing = {
            one.name
            for one in kept.adapters.get(route.name, ())
            if one.name in watched and one.name not in seen and Path(one.source).parent == folder
        }
        for name in sorted(missing & self._missing[route.name]):
            log.info("adapter gone", model=route.name, adapter=name)
            self._operations.kept = adapters.without(route, name, self._operations.kept)
        self._missing[route.name] = missing

    def _report(self, route: ModelRoute, problems: dict[str, str]) -> None:
        known = self._ignored[route.name]
        for name, problem in problems.items():
            if known.get(name) != problem:
                log.warning(
                    "adapter ignored", model=route.name, path=str(Path(route.adapter_folder, name)), reason=problem
                )
        self._ignored[route.name] = problems


def listed(folder: Path) -> Seen:
    """The folders in it, without hidden ones. OSError where it cannot be read."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    return {name: digest_of(folder / name) for name in names[:MOST]}


def digest_of(folder: Path) -> str:
    """It changes with any file in it. OSError is part of it: a folder may be on its way."""
    try:
        stats = sorted((path.name, path.stat()) for path in folder.iterdir())
        text = "\n".join(f"{name!r} {one.st_size} {one.st_mtime_ns}" for name, one in stats)
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def judged(found: Found, folder: Path) -> Found:
    """With the adapter, or with the reason why there is none."""
    if not _NAME.fullmatch(folder.name):
        return replace(found, problem="the name of an adapter has no white space, '@' and ','")
    try:
        sizes = files_in(folder)
        document = (folder / CONFIG).read_bytes() if CONFIG in sizes else b""
        adapter = described(folder.name, str(folder), sizes, document)
        reasons = [incomplete_reason(folder / name) for name in sizes if name.startswith(WEIGHTS)]
    except AdapterError as error:
        return replace(found, problem=f"it {error}")
    except OSError as error:
        return replace(found, problem=f"it cannot be read: {error.strerror}")
    if reason := next(filter(None, reasons), ""):
        return replace(found, problem=f"it {reason}")
    return replace(found, adapter=adapter, problem="")
