"""Loads the LoRA adapters that were added into each engine that is ready, after every start and wake, and unloads those
that were removed. Requests for an adapter go only to engines that have it.
"""

import asyncio
import json
from dataclasses import replace

from berth.control.decisions.records import Record
from berth.control.probes import Prober, Response
from berth.control.runtime import Runtime
from berth.log import log
from berth.plan import Adapter, DialectName, Replica
from berth.state import ReplicaStatus

TIMEOUT_S = 120.0
TRIES = 3
RETRY_S = 1.0
UNLOAD_AFTER_S = 2.0  # by then no worker of the router sends requests for it any more
_LONGEST_ERROR = 200
_PATHS = {  # to load and to unload
    DialectName.VLLM: ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    DialectName.SGLANG: ("/load_lora_adapter", "/unload_lora_adapter"),
}


class AdapterLoader:
    """At most one task per replica."""

    def __init__(self, runtime: Runtime, prober: Prober, tasks: asyncio.TaskGroup) -> None:
        self._runtime = runtime
        self._prober = prober
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}

    def cancel(self) -> None:
        for task in self._running.values():
            task.cancel()

    def follow_up(self) -> None:
        added = self._runtime.operations.kept.adapters
        for name, record in self._runtime.records.items() if added else ():
            own = added.get(record.replica.model, ())
            is_settled = {*record.adapters, *record.adapter_errors} == {one.name for one in own}
            serves = record.status is ReplicaStatus.READY and not record.attached and not record.replica.follows
            is_due = serves and not is_settled
            if is_due and name not in self._running:
                self._running[name] = self._tasks.create_task(self._settle(record, own))

    async def _settle(self, record: Record, wanted: tuple[Adapter, ...]) -> None:
        replica, names = record.replica, {one.name for one in wanted}
        for name in record.adapters:
            if name not in names:
                self._found(record, name, None)
                await asyncio.sleep(UNLOAD_AFTER_S)
                error = await self._post(replica, _PATHS[replica.dialect][1], {"lora_name": name})
                log.info("adapter unloaded", replica=replica.name, adapter=name, **({"error": error} if error else {}))
        for name in record.adapter_errors:
            if name not in names:
                self._found(record, name, None)
        for adapter in wanted:
            if adapter.name not in (*record.adapters, *record.adapter_errors):
                self._found(record, adapter.name, await self._load(replica, adapter))
        self._running.pop(replica.name, None)
        self._runtime.changed.set()

    async def _load(self, replica: Replica, adapter: Adapter) -> str:
        """The error; "" once it is loaded."""
        load, unload = _PATHS[replica.dialect]
        # an engine that slept, or that another control knew, may have it: it is loaded again all the same
        await self._post(replica, unload, {"lora_name": adapter.name})
        error = ""
        for number in range(TRIES):
            await asyncio.sleep(RETRY_S if number else 0)
            error = await self._post(replica, load, {"lora_name": adapter.name, "lora_path": adapter.source})
            if not error:
                log.info("adapter loaded", replica=replica.name, adapter=adapter.name)
                return ""
        log.warning("adapter not loaded", replica=replica.name, adapter=adapter.name, error=error)
        return error

    async def _post(self, replica: Replica, path: str, body: dict[str, str]) -> str:
        """The error, in the engine's words."""
        response = await self._prober.request(replica, "POST", path, json.dumps(body).encode(), TIMEOUT_S)
        if isinstance(response, Response):
            text = response.body.decode(errors="replace")[:_LONGEST_ERROR]
            return "" if response.ok else f"{path} returned {response.status}: {text}"
        return response

    def _found(self, record: Record, adapter: str, error: str | None) -> None:
        """Of the same start only. None: it is neither loaded nor to be loaded."""
        records, name = self._runtime.records, record.replica.name
        latest = records[name]
        if latest.starts != record.starts or latest.status is not ReplicaStatus.READY:
            return
        loaded = tuple(one for one in latest.adapters if one != adapter)
        errors = {one: text for one, text in latest.adapter_errors.items() if one != adapter}
        if error:
            errors[adapter] = error
        elif error is not None:
            loaded = (*loaded, adapter)
        records[name] = replace(latest, adapters=loaded, adapter_errors=errors)
        self._runtime.changed.set()
