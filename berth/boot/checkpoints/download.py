"""Downloads hub models into the cache: disk space is checked first, then several files at once, retried after network
errors.

The last step publishes the revision. Until then the previous snapshot stays in use.
"""

import concurrent.futures
import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # its exports are lazy

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.hub import Hub, HubFile, OutOfReachError, listing, require_complete, translated
from berth.boot.checkpoints.progress_bar import ProgressBar
from berth.boot.checkpoints.resumable import Blob, download_blob
from berth.errors import MachineError, UnwritableError
from berth.host.disk import require_room

PARALLEL_FILES = 8
LONGEST_PAUSE_S = 60.0
POLL_S = 0.2
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One model and the files needed of it."""

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

    def is_complete(self, file: HubFile) -> bool:
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


class RetryDeadline:
    """Exponential back-off that gives up after `limit_s` without progress."""

    def __init__(
        self,
        limit_s: float,
        report: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._limit_s = limit_s
        self._report = report
        self._clock = clock
        self._sleep = sleep
        self.restart()

    def restart(self) -> None:
        """For another download: progress is counted from zero."""
        self._done = -1
        self.progress(0)

    def progress(self, done: int) -> None:
        """The bytes present now; more than before extend the deadline."""
        if done > self._done:
            self._done = done
            self._since = self._clock()
            self._pause_s = 1.0

    def back_off(self, source: str, error: OutOfReachError) -> None:
        """Sleeps before the next try; MachineError if that would exceed the deadline."""
        waited_s = self._clock() - self._since
        if waited_s + self._pause_s > self._limit_s:
            raise MachineError(
                f"{source}: the hub cannot be reached ({error}), and no data came for {waited_s:.0f} s: "
                "check the network, HF_ENDPOINT and the proxy; the partial download is kept"
            ) from error
        self._report(f"{source}: the hub cannot be reached ({error}); trying again in {self._pause_s:g} s")
        self._sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def report_to(out: TextIO) -> Callable[[str], None]:
    return lambda text: print(text, file=out, flush=True)


def download_models(models: Sequence[HubModel], hub: Hub, out: TextIO, deadline: RetryDeadline) -> list[Downloaded]:
    """Downloads the missing files of the newest state of each model. ConfigError: no such model, or no access.
    UnwritableError: not enough disk space. MachineError: the hub was unreachable for too long. Offline no request is
    sent: ConfigError for an incomplete model.
    """
    if hub.offline:
        for model in models:
            require_complete(model, hub)
        return []
    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        downloads = [plan_download(model, hub, deadline) for model in models]
        missing_bytes = sum(download.total_bytes - download.present_bytes() for download in downloads)
        require_room(missing_bytes, Path(hub.cache_dir))
        return [_run(download, hub, out, deadline) for download in downloads]
    except (_DiskError, OSError) as error:
        cause = error.__cause__ if isinstance(error, _DiskError) else error
        raise UnwritableError(
            f"{getattr(cause, 'filename', None) or hub.cache_dir!r} cannot be written: "
            f"{getattr(cause, 'strerror', None) or cause}. Free space in BERTH_DATA and give Berth's user write access"
        ) from error


def plan_download(model: HubModel, hub: Hub, deadline: RetryDeadline) -> Download:
    while True:
        try:
            files = listing(model, hub)
        except OutOfReachError as error:
            deadline.back_off(model.source, error)
        else:
            break
    return Download(
        model=model,
        commit=files.commit,
        # Large files first, so that the download does not end with a single one.
        files=tuple(sorted(files.needed(model), key=lambda file: -(file.size or 0))),
        repository=cache.repository(hub.cache_dir, model.source),
    )


def _run(download: Download, hub: Hub, out: TextIO, deadline: RetryDeadline) -> Downloaded:
    deadline.restart()
    started, before = time.monotonic(), download.present_bytes()
    bar = ProgressBar(f"Downloading {download.model.source}", out)
    sizes = {file.name: file.size for file in download.files if file.size is not None}
    cache.write_record(download.repository, download.commit, sizes)
    for file in download.files:
        path = download.folder / file.name
        if path.is_file() and not download.is_complete(file):  # other content than on the hub: download it again
            path.resolve().unlink()
            path.unlink(missing_ok=True)
    if not all(map(download.is_complete, download.files)):
        while error := _download_missing(download, hub, bar, deadline):
            deadline.back_off(download.model.source, error)
        bar.finish(download.total_bytes)
    cache.delete_listing(download.repository, download.commit)
    cache.write_commit(download.repository, download.model.revision, download.commit)
    return Downloaded(
        source=download.model.source,
        folder=download.folder,
        files=len(download.files),
        total_bytes=download.total_bytes,
        new_bytes=download.total_bytes - before,
        seconds=time.monotonic() - started,
    )


def _download_missing(
    download: Download, hub: Hub, bar: ProgressBar, deadline: RetryDeadline
) -> OutOfReachError | None:
    """Downloads the missing files in parallel. Returns a network error of one of them; any other error is raised."""
    stop = threading.Event()
    failure = None
    bar.show(download.present_bytes(), download.total_bytes)
    with concurrent.futures.ThreadPoolExecutor(PARALLEL_FILES) as pool:
        missing = [file for file in download.files if not download.is_complete(file)]
        waiting = {pool.submit(download_file, download, file, hub, stop, bar.report) for file in missing}
        try:
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, timeout=POLL_S, return_when=concurrent.futures.FIRST_COMPLETED
                )
                present = download.present_bytes()
                deadline.progress(present)
                bar.show(present, download.total_bytes)
                for task in done:
                    try:
                        task.result()
                    except OutOfReachError as error:
                        failure = error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return failure


def download_file(
    download: Download, file: HubFile, hub: Hub, stop: threading.Event, report: Callable[[str], None]
) -> None:
    """Downloads large files resumably. The library downloads small ones and adds every file to its cache."""
    source = download.model.source

    def request() -> None:
        try:
            if file.sha256 and file.size is not None and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                blob = Blob(
                    url=hf_hub_url(source, file.name, revision=download.commit, endpoint=hub.endpoint),
                    path=download.repository / "blobs" / file.sha256,
                    lock=Path(hub.cache_dir, ".locks", download.repository.name, f"{file.sha256}.lock"),
                    size=file.size,
                    sha256=file.sha256,
                    token=hub.token,
                )
                download_blob(blob, stopped=stop.is_set, report=lambda text: report(f"{source}: {text}"))
            if not stop.is_set():  # else the library would restart the stopped download
                hf_hub_download(
                    source,
                    file.name,
                    revision=download.commit,
                    cache_dir=hub.cache_dir,
                    token=hub.token or None,
                    endpoint=hub.endpoint,
                )
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise _DiskError from error
            raise

    translated(source, download.model.revision, request)


class _DiskError(Exception):
    """An OSError of the disk, wrapped to pass through code that treats every OSError as a network error."""
