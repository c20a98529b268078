"""A certificate that is renewed while Berth serves: when the router is reloaded for it, and when it is not."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.watches import certificate
from berth.control.watches.certificate import CertificateWatch
from berth.host import tls
from tests.fakes import certificates
from tests.fakes.plans import GPU_PLAN

pytestmark = pytest.mark.anyio


class Watched:
    """A certificate that the router serves with, and the reloads that were requested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = certificates.make(folder)
        self.reloads, self.can_reload = 0, True
        paths, listen = replace(GPU_PLAN.paths, run_dir=str(folder / "run")), GPU_PLAN.listen
        paths.tls.parent.mkdir()
        self.plan = replace(
            GPU_PLAN, paths=paths, listen=replace(listen, tls_cert=self.files[0], tls_key=self.files[1])
        )
        self.install()
        self.watch = CertificateWatch(self.plan, self._reload)

    def install(self) -> None:
        tls.install(*self.files, self.plan.paths.tls)

    def write(self, *, cert: bytes = b"", key: bytes = b"") -> None:
        for file, content in zip(self.files, (cert, key), strict=True):
            if content:
                Path(file).write_bytes(content)

    def _reload(self) -> bool:
        if self.can_reload:
            self.reloads += 1
            self.install()
        return self.can_reload

    async def look(self, times: int = 1) -> tuple[int, str]:
        for _ in range(times):
            await self.watch.look()
        return self.reloads, self.watch.problem


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


async def test_renewed_files_are_served_with_once(watched: Watched) -> None:
    assert await watched.look(2) == (0, "")
    certificates.make(watched.folder, days=60)
    assert await watched.look(2) == (1, "")
    certificates.make(watched.folder, days=90)
    watched.can_reload = False  # as while Berth is shutting down
    assert await watched.look(2) == (1, "")
    watched.can_reload = True
    assert await watched.look(2) == (2, "")


async def test_files_changed_while_there_was_no_control(watched: Watched) -> None:
    certificates.make(watched.folder, days=60)
    assert await watched.look(2) == (1, "")


async def test_two_files_that_are_written_one_after_the_other_are_no_problem(
    watched: Watched, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    await watched.look()
    cert, key = renewed(tmp_path_factory.mktemp("new"))
    watched.write(cert=cert)
    assert await watched.look() == (0, "")
    watched.write(key=key[:40])
    assert await watched.look() == (0, "")
    watched.write(key=key)
    assert await watched.look() == (1, "")
    assert caplog.records == []


def renewed(folder: Path) -> list[bytes]:
    return [Path(file).read_bytes() for file in certificates.make(folder, days=60)]


def _other_key(files: tuple[str, str], folder: Path) -> None:
    Path(files[1]).write_bytes(Path(certificates.make(folder)[1]).read_bytes())


def _expired(files: tuple[str, str], _: Path) -> None:
    certificates.make(Path(files[0]).parent, days=-1)


def _gone(files: tuple[str, str], _: Path) -> None:
    Path(files[0]).unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_other_key, "key values mismatch"), (_expired, "certificate has expired"), (_gone, "No such file")],
)
async def test_files_that_cannot_be_used_leave_the_old_certificate(
    watched: Watched,
    spoil: Callable[[tuple[str, str], Path], None],
    reason: str,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = watched.plan.paths.tls.read_bytes()
    spoil(watched.files, tmp_path_factory.mktemp("other"))
    reloads, problem = await watched.look(4)

    assert (reloads, watched.plan.paths.tls.read_bytes()) == (0, served)
    assert reason in problem
    assert [record.message for record in caplog.records] == ["TLS certificate unchanged"]
    certificates.make(watched.folder, days=60)
    assert await watched.look() == (1, "")


async def test_without_tls_nothing_is_watched() -> None:
    await asyncio.wait_for(CertificateWatch(GPU_PLAN, lambda: False).run(), 60)


async def test_it_looks_again_and_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "PERIOD_S", 0.0)
    running = asyncio.create_task(watched.watch.run())
    certificates.make(watched.folder, days=60)
    async with asyncio.timeout(60):
        while not watched.reloads:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    running.cancel()
