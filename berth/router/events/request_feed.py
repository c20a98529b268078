"""The event `requests`: those that have ended since the last one, and those in progress."""

from pathlib import Path
from typing import Any, Final

from berth.ipc.journal import Names, Reader, Record
from berth.ipc.traffic import workers

MOST_REQUESTS: Final = 100  # that are over, in one event


class RequestFeed:
    def __init__(self, journal: Path, heartbeats: Path, names: Names) -> None:
        self._reader = Reader(journal, names)
        self._heartbeats = heartbeats
        self._had_running = False

    def begin(self) -> None:
        """What has ended until now is not new."""
        self._reader.new(0)

    def first(self, since: float | None) -> dict[str, Any]:
        """For a listener that has just joined: the last requests; with `since` those that have ended after it."""
        known = self._reader.finished(seen=True)
        if since is not None:
            known = [one for one in known if one.start + one.duration_s > since]
        skipped = 0 if since is None else max(0, len(known) - MOST_REQUESTS)
        return _document(known[-MOST_REQUESTS:], skipped, self._running())

    def next(self) -> dict[str, Any] | None:
        """None: nothing has changed."""
        finished, skipped = self._reader.new(MOST_REQUESTS)
        running = self._running()
        changed = bool(finished or skipped or running or self._had_running)
        self._had_running = bool(running)
        return _document(finished, skipped, running) if changed else None

    def rename(self, names: Names) -> None:
        self._reader.names = names

    def close(self) -> None:
        self._reader.close()

    def _running(self) -> list[Record]:
        return self._reader.running(workers(self._heartbeats))


def _document(finished: list[Record], skipped: int, running: list[Record]) -> dict[str, Any]:
    return {
        "requests": [record.document() for record in finished],
        "skipped": skipped,
        "running": [record.document() for record in running[:MOST_REQUESTS]],
    }
