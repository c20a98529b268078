"""The last events: what `berth events` shows."""

import time
from collections import deque
from typing import Final

from berth.control.decisions.records import Record
from berth.ipc.migration import Migration, Phase
from berth.ipc.operations import Event, Operation
from berth.ipc.shadow import Shadow

MOST: Final = 1000
_MICROSECONDS: Final = 1_000_000


class EventRing:
    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST)

    def transition(self, before: Record, record: Record, operation: Operation | None) -> None:
        self._add(
            subject=record.replica.name,
            model=record.replica.model,
            change=f"{before.status} -> {record.status}",
            reason=record.reason,
            operation=operation.id if operation else "",
        )

    def preempted(self, record: Record, operation: Operation | None) -> None:
        """It still has requests, and they have had their time."""
        self._add(
            subject=record.replica.name,
            model=record.replica.model,
            change="drain timeout over",
            reason="its last requests are preempted",
            operation=operation.id if operation else "",
        )

    def operation(self, operation: Operation) -> None:
        self._add(
            subject=operation.action,
            model=operation.model,
            change=operation.state,
            reason=operation.reason or (f"requested by {operation.by}" if operation.by and operation.running else ""),
            operation=operation.id,
        )

    def progress(self, operation: Operation) -> None:
        """The holder of a lease says what it does."""
        self._add(
            subject=operation.action,
            model=operation.model,
            change=operation.progress,
            reason="",
            operation=operation.id,
        )

    def migration(self, operation: Operation, migration: Migration) -> None:
        """It has reached another phase, or step."""
        share = f" {migration.options.steps[migration.step]:g} %" if migration.phase is Phase.CANARY else ""
        self._add(
            subject=operation.action,
            model=operation.model,
            change=f"{migration.phase}{share}",
            reason=migration.reason or migration.paused,
            operation=operation.id,
        )

    def shadow(self, operation: Operation, shadow: Shadow) -> None:
        """It has reached another phase."""
        self._add(
            subject=operation.action,
            model=operation.model,
            change=shadow.phase,
            reason=shadow.reason,
            operation=operation.id,
        )

    def after(self, number: int) -> tuple[Event, ...]:
        return tuple(event for event in self._events if event.id > number)

    def _add(self, *, subject: str, model: str, change: str, reason: str, operation: str) -> None:
        now = time.time()
        last = self._events[-1].id if self._events else 0
        number = max(
            int(now * _MICROSECONDS), last + 1
        )  # unique after a restart of control too, which begins a new ring
        event = Event(
            id=number, at=now, subject=subject, model=model, change=change, reason=reason, operation=operation
        )
        self._events.append(event)
