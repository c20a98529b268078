"""What may end the service of a host that is well: a full disk, a container's memory, a certificate that ends.

Read in a thread, and apart from the State's heartbeat: a network file system may not answer for minutes.
"""

import asyncio
import os
from typing import Final

from berth.host import cgroup, tls
from berth.plan import Plan
from berth.state import HostState

PERIOD_S: Final = 15.0


class HostWatch:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._certificate_of = 0  # the time of the file that was read
        self._ends: float | None = None
        self._problem = ""
        self.state = HostState()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.state = await asyncio.to_thread(self.read)
            await asyncio.sleep(PERIOD_S)

    def read(self) -> HostState:
        free = total = None
        try:
            disk = os.statvfs(self._plan.paths.data_dir)
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        except OSError:
            pass
        left, limit = cgroup.memory_left_of()
        if self._plan.listen.tls_cert:
            self._read_certificate()
        return HostState(
            data_dir_free_bytes=free,
            data_dir_total_bytes=total,
            memory_left_bytes=left,
            memory_limit_bytes=limit,
            tls_ends=self._ends,
            tls_problem=self._problem,
        )

    def _read_certificate(self) -> None:
        """Of the router's own copy, once for each: what control has not installed yet does not count."""
        file = self._plan.paths.tls
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return
        if changed != self._certificate_of:
            self._certificate_of = changed
            try:
                self._ends, self._problem = tls.certificate(str(file), str(file)).ends, ""
            except tls.CertificateError as error:  # it has ended, and control has not seen it before
                self._ends, self._problem = None, str(error).rpartition(": ")[2]
