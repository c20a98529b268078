"""Makes hub models whole in the cache: room first, then the files, several at once, through any trouble of the network.

A model becomes visible with its last step, the reference of its revision. Until then an earlier state stays in use.
"""

import concurrent.futures
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # its exports are lazy

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.hub import Hub, HubFile, Listing, OutOfReachError, asked, listing, require_whole
from berth.boot.checkpoints.hub_files import HubModel
from berth.boot.checkpoints.progress_bar import ProgressBar
from berth.boot.checkpoints.resumable import Blob, bring
from berth.errors import MachineError, UnwritableError
from berth.host.disk import require_room

AT_ONCE = 8  # files
LONGEST_PAUSE_S = 60.0
LOOK_S = 0.2  # between two looks at how far it is
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model and what is needed of it."""

    model: HubModel
    commit: str
    files: tuple[HubFile, ...]
    repository: Path

    @property
    def total_bytes(self) -> int:
        return sum(file.size or 0 for file in self.files)

    @property
    def folder(self) -> Path:
        return self.repository / "snapshots" / self.commit

    def present_bytes(self) -> int:
        rows = ((file.name, file.blob, file.size or 0) for file in self.files)
        return cache.present_bytes(self.repository, self.commit, rows)

    def is_there(self, file: HubFile) -> bool:
        path = self.folder / file.name
        return path.is_file() and file.size in (None, path.stat().st_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    source: str
    folder: Path
    files: int
    total_bytes: int
    new_bytes: int
    seconds: float


class Patience:
    """Waits longer and longer between tries, and gives up after `limit_s` in which nothing came."""

    def __init__(
        self,
        limit_s: float,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._limit_s = limit_s
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self.begin()

    def begin(self) -> None:
        """Another job: its bytes are counted anew."""
        self._done = -1
        self.moved(0)

    def moved(self, done: int) -> None:
        """Bytes that are there now; more than before is progress."""
        if done > self._done:
            self._done = done
            self._since = self._clock()
            self._pause_s = 1.0

    def pause(self, source: str, error: OutOfReachError) -> None:
        """MachineError in place of a pause that is too much."""
        waited_s = self._clock() - self._since
        if waited_s + self._pause_s > self._limit_s:
            raise MachineError(
                f"{source}: the hub cannot be reached ({error}), and nothing came for {waited_s:.0f} s: "
                "check the network, HF_ENDPOINT and the proxy; what is there already is kept"
            ) from error
        self._say(f"{source}: the hub cannot be reached ({error}); trying again in {self._pause_s:g} s")
        self._sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def say_to(out: TextIO) -> Callable[[str], None]:
    return lambda text: print(text, file=out, flush=True)


def make_whole(models: Sequence[HubModel], hub: Hub, out: TextIO, patience: Patience) -> list[Downloaded]:
    """Downloads what is missing of the newest state of each. ConfigError: no such model, or no access to it.
    UnwritableError: no room. MachineError: the hub is out of reach for too long. Offline nothing is asked: ConfigError
    for what is not whole.
    """
    if hub.offline:
        for model in models:
            require_whole(model, hub)
        return []
    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _on_disk(hub):
        jobs = [_job(model, hub, patience) for model in models]
        require_room(sum(job.total_bytes - job.present_bytes() for job in jobs), Path(hub.cache_dir))
        return [_downloaded(job, hub, out, patience) for job in jobs]


def _job(model: HubModel, hub: Hub, patience: Patience) -> Job:
    found = _patiently(model.source, lambda: listing(model, hub), patience)
    return Job(
        model=model,
        commit=found.commit,
        files=_wanted(model, found),
        repository=cache.repository(hub.cache_dir, model.source),
    )


def _wanted(model: HubModel, found: Listing) -> tuple[HubFile, ...]:
    """Large files first: the last hour should not belong to a single one."""
    return tuple(sorted(found.needed(model), key=lambda file: -(file.size or 0)))


def _patiently(source: str, ask: Callable[[], Listing], patience: Patience) -> Listing:
    while True:
        try:
            return ask()
        except OutOfReachError as error:
            patience.pause(source, error)


def _downloaded(job: Job, hub: Hub, out: TextIO, patience: Patience) -> Downloaded:
    patience.begin()
    started, before = time.monotonic(), job.present_bytes()
    gauge = ProgressBar(f"Downloading {job.model.source}", out)
    cache.write_record(
        job.repository, job.commit, {file.name: file.size for file in job.files if file.size is not None}
    )
    _clear(job)
    if not all(map(job.is_there, job.files)):
        while trouble := _round(job, hub, gauge, patience):
            patience.pause(job.model.source, trouble)
        gauge.finish(job.total_bytes)
    cache.forget_listing(job.repository, job.commit)
    cache.write_commit(job.repository, job.model.revision, job.commit)
    return Downloaded(
        source=job.model.source,
        folder=job.folder,
        files=len(job.files),
        total_bytes=job.total_bytes,
        new_bytes=job.total_bytes - before,
        seconds=time.monotonic() - started,
    )


def _round(job: Job, hub: Hub, gauge: ProgressBar, patience: Patience) -> OutOfReachError | None:
    """Brings the files that are not there yet; the trouble that one of them had, if any did."""
    stop = threading.Event()
    gauge.show(job.present_bytes(), job.total_bytes)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        missing = [file for file in job.files if not job.is_there(file)]
        tasks = [pool.submit(_bring, job, file, hub, stop, gauge.say) for file in missing]
        try:
            return _trouble(tasks, lambda: _look(job, gauge, patience))
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _look(job: Job, gauge: ProgressBar, patience: Patience) -> None:
    done = job.present_bytes()
    patience.moved(done)
    gauge.show(done, job.total_bytes)


def _trouble(tasks: Iterable[concurrent.futures.Future[None]], look: Callable[[], None]) -> OutOfReachError | None:
    """Waits for all of them. What is no trouble of the network is raised at once."""
    waiting, trouble = set(tasks), None
    while waiting:
        done, waiting = concurrent.futures.wait(waiting, timeout=LOOK_S, return_when=concurrent.futures.FIRST_COMPLETED)
        look()
        for task in done:
            try:
                task.result()
            except OutOfReachError as error:
                trouble = error
    return trouble


def _bring(job: Job, file: HubFile, hub: Hub, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Large files through a transfer that goes on where it was broken off; then, and for small ones, the library makes
    what else belongs to a file in its cache.
    """
    source, commit = job.model.source, job.commit

    def ask() -> None:
        if file.sha256 and file.size is not None and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            blob = _blob(job, file, file.sha256, file.size, hub)
            bring(blob, stopped=stop.is_set, say=lambda text: say(f"{source}: {text}"))
        if not stop.is_set():  # else the library would begin with what was just broken off
            hf_hub_download(
                source,
                file.name,
                revision=commit,
                cache_dir=hub.cache_dir,
                token=hub.token or None,
                endpoint=hub.endpoint,
            )

    asked(source, job.model.revision, lambda: _keeping_disk_errors(ask))


def _blob(job: Job, file: HubFile, sha256: str, size: int, hub: Hub) -> Blob:
    return Blob(
        url=hf_hub_url(job.model.source, file.name, revision=job.commit, endpoint=hub.endpoint),
        path=job.repository / "blobs" / sha256,
        lock=Path(hub.cache_dir, ".locks", job.repository.name, f"{sha256}.lock"),
        size=size,
        sha256=sha256,
        token=hub.token,
    )


class _DiskError(Exception):
    """An OSError of the disk on its way through code that takes every OSError for the network's."""


def _keeping_disk_errors(do: Callable[[], None]) -> None:
    try:
        do()
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise _DiskError from error
        raise


@contextmanager
def _on_disk(hub: Hub) -> Iterator[None]:
    try:
        yield
    except (_DiskError, OSError) as error:
        cause = error.__cause__ if isinstance(error, _DiskError) else error
        raise UnwritableError(
            f"{getattr(cause, 'filename', None) or hub.cache_dir!r} cannot be written: "
            f"{getattr(cause, 'strerror', None) or cause}. Make room in BERTH_DATA and give Berth's user write access"
        ) from error


def _clear(job: Job) -> None:
    """Takes away links whose content is not what the hub has, so that it is downloaded anew."""
    for file in job.files:
        path = job.folder / file.name
        if path.is_file() and not job.is_there(file):
            path.resolve().unlink()
            path.unlink(missing_ok=True)
