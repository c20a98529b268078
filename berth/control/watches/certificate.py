"""The certificate's files: when they change, the router serves with what they have, as by `berth reload`.

A renewal writes two files, one after the other. So files that cannot be used are a problem only once they have stayed
as they are from one look to the next. The old certificate stays meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from berth.host import tls
from berth.host.tls import CertificateError
from berth.log import log
from berth.plan import Plan

OF_FILES: Final = "the certificate's files"  # who requests the reload
PERIOD_S: Final = 2.0


class CertificateWatch:
    def __init__(self, plan: Plan, renew: Callable[[], bool]) -> None:
        """`renew` reloads the router; False if that cannot begin now."""
        self._plan = plan
        self._renew = renew
        self._seen = self._settled = ""  # digests of the files: at the last look, and when they were last judged
        self.problem = ""  # why what the files have is not served with

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._plan.listen.tls_cert:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """At the first one too: the files may have changed while there was no control."""
        files, before = (self._plan.listen.tls_cert, self._plan.listen.tls_key), self._seen
        self._seen = await asyncio.to_thread(tls.digest, *files)
        if self._seen == self._settled:
            return
        try:
            is_new = await asyncio.to_thread(self._differs, *files)
        except (CertificateError, OSError) as error:
            if self._seen == before:
                self._settled, self.problem = self._seen, str(error)
                log.error("TLS certificate unchanged", reason=self.problem)
            return
        self.problem = ""
        if not is_new or self._renew():
            self._settled = self._seen

    def _differs(self, cert: str, key: str) -> bool:
        """From the router's copy. CertificateError if they cannot be used."""
        pem, _ = tls.tried(cert, key)
        file = self._plan.paths.tls
        return not file.exists() or file.read_bytes() != pem
