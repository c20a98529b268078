"""GET /admin/report: the archive of `berth report`, for who has no shell on the server.

A program of its own makes it, since it takes seconds and reads what a router does not know.
"""

import asyncio
import subprocess
import sys
import time
from typing import Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth.errors import ConflictError, NotReadyError
from berth.log import log
from berth.router.exchange.responses import Reply, write
from berth.router.server.admin import operator_of
from berth.router.worker import Worker

REPORT_S: Final = 120.0
PROGRAM: Final = (sys.executable, "-P", "-m", "berth", "report", "--output", "-", "--run-dir")


class SupportReport:
    """One at a time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._busy = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, headers = self._worker, dict(scope["headers"])
        who = operator_of(worker, headers, changes=False)
        if self._busy:
            raise ConflictError("A report is being made. Wait for it.", code="busy")
        self._busy = True
        try:
            archive = await made(worker.plan.paths.run_dir)
        finally:
            self._busy = False
        client = scope.get("client")
        log.info("report made", who=who, client=client[0] if client else "?", bytes=len(archive))
        extra = [
            (
                b"content-disposition",
                time.strftime('attachment; filename="berth-report-%Y%m%d-%H%M%S.tar.gz"').encode(),
            ),
            (b"cache-control", b"no-store"),
            (b"x-request-id", worker.request_ids.of(headers).encode()),
        ]
        await write(send, Reply(body=archive, content_type=b"application/gzip"), extra)


async def made(run_dir: str, *, program: tuple[str, ...] = (), limit_s: float = REPORT_S) -> bytes:
    """By `program`, or `berth report`. NotReadyError if there is none in time."""
    process = await asyncio.create_subprocess_exec(
        *(program or PROGRAM), run_dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit_s):
            archive, said = await process.communicate()
    except TimeoutError as error:
        text = f"There was no report within {limit_s:g} s. In the container: berth report -o FILE"
        raise NotReadyError(text, code="no_report") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        log.warning("report failed", code=process.returncode, said=said.decode(errors="replace")[-500:])
        raise NotReadyError("The report failed; Berth's log says why. In the container: berth report", code="no_report")
    return archive


def routes(worker: Worker) -> list[Route]:
    return [Route("/admin/report", SupportReport(worker), methods=["GET"])]
