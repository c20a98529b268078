"""Learns how long starts and wakes take, also for the next Berth: see `berth.records.starts`."""

import threading
import time
from collections.abc import Iterable, Mapping

from berth.control.decisions.records import Record
from berth.log import log
from berth.records import starts
from berth.records.starts import How, Start, kind_of, start_kind
from berth.state import ReplicaStatus

_S = ReplicaStatus
_ASLEEP = (_S.FALLING_ASLEEP, _S.ASLEEP, _S.WAKING)


class StartTimes:
    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._starts = starts.read(data_dir)
        self._writes = threading.Lock()
        self._of_sleepers: dict[str, dict[How, float]] = {}  # computed once for each start that is learned
        if self._starts.problem:
            log.warning("start times ignored", reason=self._starts.problem)

    def expected_s(self, record: Record) -> float | None:
        """How long it takes from its next, or present, start or wake until it is ready. None: unknown."""
        if record.attached:
            return None
        kinds = [how(record), *((How.COLD, How.FORKED) if record.status not in _ASLEEP else ())]
        known = (self._starts.seconds(kind_of(record.replica, one)) for one in kinds)
        return next((seconds for seconds in known if seconds is not None), None)

    def of_sleepers(self, records: Iterable[Record]) -> dict[str, dict[How, float]]:
        """How long each kind of start takes, of the replicas that can sleep."""
        able = [one.replica for one in records if one.replica.sleep is not None]
        for replica in able:
            if replica.name not in self._of_sleepers:
                known = {kind: self._starts.seconds(kind_of(replica, kind)) for kind in How}
                self._of_sleepers[replica.name] = {kind: one for kind, one in known.items() if one is not None}
        return {replica.name: self._of_sleepers[replica.name] for replica in able}

    def expected_phases(self, record: Record) -> Mapping[str, float]:
        """The seconds of each, of a replica that starts."""
        if record.status is not _S.STARTING or record.attached:
            return {}
        return self._starts.phases(kind_of(record.replica, how(record)))

    def learned(self, before: Record, record: Record, now: float) -> bool:
        """A change of status. True: there is something new for `save`."""
        is_loaded = before.status is _S.STARTING and record.status in (_S.READY, _S.FALLING_ASLEEP)
        is_awake = (before.status, record.status) == (_S.WAKING, _S.READY)
        if record.attached or not (is_loaded or is_awake):
            return False
        phases = record.phases if is_loaded else {}
        kind = start_kind(phases) if is_loaded else how(before)
        start = Start(at=int(time.time()), seconds=round(now - before.since, 2), phases=phases)
        if start.sound:
            self._starts = self._starts.with_start(kind_of(record.replica, kind), start)
            self._of_sleepers.clear()
        return start.sound

    def save(self) -> None:
        """Writes a file, and never raises: nothing depends on it."""
        try:
            with self._writes:
                starts.write(self._data_dir, self._starts)
        except OSError as error:
            log.warning("start times not kept", error=error.strerror or str(error))


def how(record: Record) -> How:
    """How it becomes ready next: a start is like the present or the last one. What a control before this one put to
    sleep reads its weights again, if it can.
    """
    if record.status not in _ASLEEP or record.replica.sleep is None:
        present = {record.tracker.progress.phase} if record.status is _S.STARTING else set()
        return start_kind({*record.phases, *present})
    return record.wakes or (How.WAKE_2 if record.replica.sleep.reload else How.WAKE_1)
