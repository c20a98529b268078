"""Writes down once a minute, and at the end, what clients used, and publishes from when their budgets count.

Nothing that serves depends on it: with a full disk it is counted on in memory, and written down when there is space.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from berth.control.ledger.compaction import AFTER_S, compact
from berth.control.ledger.key_watch import write_keys
from berth.errors import ControlError
from berth.ipc import key_counters
from berth.ipc.key_counters import Shape
from berth.log import log
from berth.plan import ApiKey, Plan, read_keys
from berth.records import usage
from berth.records.usage import Notes

FLUSH_S: Final = 60.0


class UsageWriter:
    def __init__(self, plan: Plan, wall: Callable[[], float] = time.time) -> None:
        self._plan = plan
        self._wall = wall
        self._rows: list[memoryview[float]] = []
        self._notes: Notes | None = None  # None: not read yet
        self._failing = False
        self._day = ""  # for which budgets were published
        self.keys_changed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. Minutes end together with those of the clock, so that a day has its own lines."""
        while True:
            await self.flush()
            day = usage.day_of(self._wall())
            if self.keys_changed.is_set() or day != self._day:
                self._day = day
                self.keys_changed.clear()
                await self.publish_budgets()
                await self.compact()
            try:
                async with asyncio.timeout(FLUSH_S - self._wall() % FLUSH_S):
                    await self.keys_changed.wait()
            except TimeoutError:
                pass

    async def flush(self) -> None:
        """Never raises."""
        try:
            await asyncio.to_thread(self._flush)
        except (OSError, ControlError) as error:
            if not self._failing:
                log.warning("usage not written, counting in memory", reason=str(error))
            self._failing = True
        else:
            if self._failing:
                log.info("usage written again")
            self._failing = False

    def _flush(self) -> None:
        """OSError when it cannot be written: then nothing has changed, and the next time has it all."""
        plan = self._plan
        if self._notes is None:
            self._notes = usage.with_written(plan, usage.read_notes(plan), self._wall())
        if not self._rows:
            self._rows = key_counters.rows(plan.paths.key_counters, Shape.of(plan))
        self._notes = usage.write(plan, self._notes, self._rows, self._wall())

    async def compact(self) -> None:
        """The months that have been over for a while. Never raises: it is tried again the next day."""
        plan = self._plan
        month = usage.month_of(self._wall() - AFTER_S)
        folder = usage.path(plan, month).parent
        try:
            done = await asyncio.to_thread(compact, folder, month, usage.boot_of(plan))
        except OSError as error:
            log.warning("usage not compacted", reason=str(error))
        else:
            if done:
                log.info("usage compacted", months=" ".join(done))

    async def publish_budgets(self) -> None:
        """The counters of tokens at the beginning of the day and the month, from what is written down."""
        try:
            keys = read_keys(self._plan.paths.run_dir)
        except ControlError as error:
            log.warning("budgets not published", reason=str(error))
            return
        if not any(map(has_budget, keys.api_keys)):
            return
        now = self._wall()
        midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        try:
            lines = await asyncio.to_thread(usage.lines, usage.path(self._plan, usage.month_of(now)))
        except OSError as error:
            log.warning("usage not read, budgets count from the start of Berth", reason=str(error))
            return
        day, month = usage.charged(lines, midnight.timestamp()), usage.charged(lines)
        keys = read_keys(self._plan.paths.run_dir)  # as they are now
        written: dict[str, float] = {}
        for (name, _model), use in (self._notes or Notes()).totals().items():
            written[name] = written.get(name, 0.0) + use.charged
        found = tuple(
            replace(
                key,
                day_from=written.get(key.name, 0.0) - day.get(key.name, 0.0),
                month_from=written.get(key.name, 0.0) - month.get(key.name, 0.0),
            )
            if has_budget(key)
            else key
            for key in keys.api_keys
        )
        if found != keys.api_keys:
            try:
                write_keys(self._plan, replace(keys, api_keys=found))
            except OSError as error:
                log.warning("budgets not published", reason=str(error))


def has_budget(key: ApiKey) -> bool:
    return bool(key.tokens_per_day or key.tokens_per_month)
