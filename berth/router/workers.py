"""Granian's server with rules of its own for the workers: when a dead one is replaced, and how one that serves is."""

import os
import signal
import time
from contextlib import suppress
from typing import Any, Final

from granian.server.mp import MPServer

from berth.log import log

_START_S: Final = 5.0  # a worker that lives shorter may have failed at its start
_STARTS: Final = 5  # that fail one after the other, before the router gives up and supervisord starts it again
_LISTENS_S: Final = 3.5  # from the start of a worker until it surely listens


class Workers(MPServer):
    """The workers of one router, in the main process.

    A dead worker is replaced at once, however short it lived. Granian ends all of them when the same one dies twice
    within 5.5 s, and with them the requests of the healthy ones. Here five have to fail, each right after its start.

    SIGHUP replaces all, one by one. Those before get a SIGHUP too and end when their requests have: meanwhile no one
    waits for them, so that this process still replaces the dead, and stops when it should. The next SIGHUP is their
    second one, which gives them BERTH_DRAIN_TIMEOUT.
    """

    def __init__(self, target: str, **options: Any) -> None:
        super().__init__(target, respawn_failed_workers=True, **options)
        self._leaving: list[Any] = []  # Granian's workers, as in self.wrks
        self._short_lives: dict[int, int] = {}  # in a row, by worker

    def _respawn_workers(self, workers: list[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """`workers`: the indexes of dead ones, or of all when they are to be replaced: then there is a `delay`."""
        if delay:
            self._make_way()
        for index in workers:
            before: Any = self.wrks[index]
            if not delay:
                if before.is_alive():
                    continue  # it was replaced by a reload
                is_short = time.monotonic() - before.birth < _START_S
                self._short_lives[index] = self._short_lives.get(index, 0) + 1 if is_short else 0
                if self._short_lives[index] >= _STARTS:  # the router ends, with an exit code of 1
                    log.error("workers fail at their start", worker=index + 1, starts=_STARTS)
                    self.interrupt_children.append(index)
                    self.interrupt_signal = True
                    self.main_loop_interrupt.set()
                    return
            worker: Any = self._spawn_worker(idx=index, target=spawn_target, callback_loader=target_loader)
            worker.start()
            self.wrks[index] = worker
            if delay:
                self._pause(_LISTENS_S)
                self._leaving = [*(one for one in self._leaving if one.is_alive()), before]
                before.interrupt_by_parent = True  # its end is no accident
                self._leave(before)
            if self.interrupt_signal:
                return

    def _stop_workers(self) -> None:
        self.wrks += (one for one in self._leaving if one.is_alive())
        super()._stop_workers()  # type: ignore[no-untyped-call]

    def _make_way(self) -> None:
        """The files of the run directory have room for two generations of workers."""
        for one in self._leaving:
            self._leave(one)
        if self._leaving:
            self._pause(self.workers_kill_timeout or 0, *self._leaving)
        if not self.interrupt_signal:
            for one in self._leaving:
                one.kill()
            self._leaving.clear()

    def _pause(self, seconds: float, *workers: Any) -> None:
        """Until the router is to stop, or all the workers have ended, if there are any."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.interrupt_signal:
            if workers and not any(one.is_alive() for one in workers):
                return
            time.sleep(0.05)

    @staticmethod
    def _leave(worker: Any) -> None:
        with suppress(ProcessLookupError):
            if worker.is_alive():  # else its pid may be another's by now
                os.kill(worker.inner.pid, signal.SIGHUP)
