"""Writes the audit: control's part of it. The log has each entry at once, the file as soon as the disk takes it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from berth.ipc.capture import CaptureAction
from berth.ipc.operations import Operation, Reply, Request
from berth.log import log
from berth.records import audit
from berth.records.audit import Entry


class AuditLog:
    def __init__(self, data_dir: str, wall: Callable[[], float] = time.time) -> None:
        self._data_dir = data_dir
        self._wall = wall
        self._waiting: deque[Entry] = deque()
        self._new = asyncio.Event()
        self._requested: dict[str, Entry] = {}  # by operations that are not over
        self._failing = False

    def add(self, who: str, what: str, result: str, details: Mapping[str, str] | None = None) -> None:
        self._put(Entry(t=self._wall(), who=who, what=what, result=result, details=details or {}))

    def answered(self, request: Request, reply: Reply) -> None:
        """A change, or a cancellation, was requested."""
        change, operation, (what, target) = request.change, reply.operation, _asked(request)
        if not what:
            return
        entry = Entry(
            t=self._wall(),
            who=request.who or "control.sock",
            origin=request.origin,
            what=what,
            target=target,
            result=f"denied: {reply.denial.code}"
            if reply.denial
            else _result(operation)
            if change or operation
            else "accepted",
            operation=operation.id if operation else "",
        )
        self._put(entry)
        if change and operation and operation.running:
            self._requested[operation.id] = entry

    def settled(self, find: Callable[[str], Operation | None]) -> None:
        """Adds the end of the operations that are over."""
        for number, entry in tuple(self._requested.items()):
            operation = find(number)
            if operation is None or not operation.running:
                del self._requested[number]
                reason = {"reason": operation.reason} if operation and operation.reason else {}
                result = _result(operation)
                self._put(
                    Entry(
                        t=self._wall(),
                        who=entry.who,
                        origin=entry.origin,
                        what=entry.what,
                        target=entry.target,
                        result=result,
                        operation=number,
                        details=reason,
                    )
                )

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._new.wait()
            self._new.clear()
            await self.flush()

    async def flush(self) -> None:
        """Never raises: what cannot be written now is written with the next entry."""
        while self._waiting:
            try:
                await asyncio.to_thread(audit.append, self._data_dir, self._waiting[0])
            except OSError as error:
                if not self._failing:
                    log.warning("audit not written, kept in memory", reason=str(error))
                self._failing = True
                return
            self._waiting.popleft()
            self._failing = False

    def _put(self, entry: Entry) -> None:
        audit.report(entry)
        self._waiting.append(entry)
        self._new.set()


def _result(operation: Operation | None) -> str:
    if operation is None:
        return "unknown"
    return "accepted" if operation.running else str(operation.state)


def _asked(request: Request) -> tuple[str, str]:
    """What is to be done, and with what; "" for a request that changes nothing."""
    change, adapter, capture = request.change, request.adapter, request.capture
    if change is not None:
        return ("", "") if change.dry_run else (str(change.action), change.model)
    if adapter is not None and (adapter.add or adapter.remove):
        name = adapter.add.name if adapter.add else adapter.remove
        return "add adapter" if adapter.add else "remove adapter", f"{adapter.model}/{name}"
    if capture is not None and capture.action not in (CaptureAction.ADD, CaptureAction.LIST):
        target = capture.capture.shown() if capture.capture else capture.id
        return f"capture {capture.action}", target
    if request.move is not None:
        return str(request.move.kind), request.move.migration
    return ("cancel", request.cancel) if request.cancel else ("", "")
