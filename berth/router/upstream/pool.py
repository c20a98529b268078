"""The connection pool of one replica. A pool belongs to one event loop and needs no locks."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from berth.plan import API_PATH, UNIX_SCHEME
from berth.router.upstream.connection import BrokenResponseError, ConnectFailedError, Connection

LOCAL: Final = "http://localhost"  # how an engine behind a socket is addressed
CONNECT_TIMEOUT_S: Final = 5.0
IDLE_S: Final = 4.0  # engines close a connection that was idle for 5 s: the pool does so earlier


class Pool:
    """The connections to one replica. `url` may have a path, which is the prefix of all requests' paths. As
    `unix:/run/x.sock` it is a Unix socket. `api_path` takes the place of "/v1" in paths.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        api_path: str = API_PATH,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._socket = url.removeprefix(UNIX_SCHEME) if url.startswith(UNIX_SCHEME) else None
        parts = urlsplit(LOCAL if self._socket else url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._api_path = api_path
        self._connect_timeout_s = connect_timeout_s
        authorization = f"authorization: Bearer {key}\r\n" if key else ""
        self._fixed = f"host: {parts.netloc.rpartition('@')[2]}\r\nuser-agent: berth\r\n{authorization}"
        self._idle: dict[Connection, None] = {}  # the last one is the newest
        self._busy: dict[Connection, None] = {}  # those with an exchange
        self._loop: asyncio.AbstractEventLoop | None = None  # of all requests: a lookup costs a system call

    async def request(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        content_type: str = "application/json",
        *,
        method: str = "POST",
    ) -> Connection:
        """The connection with the head of the response. Hand it to `release` in any case.

        An engine may close an idle connection just when the request is sent. If not a byte of a response came, the
        request is sent again, on a new connection.
        """
        if self._api_path != API_PATH and path[: len(API_PATH) + 1] == f"{API_PATH}/":
            path = self._api_path + path[len(API_PATH) :]
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        content = f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fixed}{lines}{content}\r\n".encode()
        loop = self._loop = self._loop or asyncio.get_running_loop()
        deadline, connection = loop.time() + timeout_s, self._take_idle(loop)
        while True:
            reused = connection is not None
            connection = connection or await self._connect(loop, timeout_s)
            self._busy[connection] = None
            try:
                connection.send(head, body)
                while not connection.status:
                    if connection.error is not None:
                        raise connection.error  # noqa: TRY301 - as below
                    await connection.change(deadline)
            except BaseException as exc:
                del self._busy[connection]
                connection.close()
                if not reused or connection.responded or not isinstance(exc, BrokenResponseError):
                    raise
                connection = None
            else:
                return connection

    def _forget(self, ended: Connection) -> None:
        self._idle.pop(ended, None)

    def release(self, connection: Connection) -> None:
        """Keeps a connection whose response was read to its end, and closes any other."""
        self._busy.pop(connection, None)  # of an attached server that was identified meanwhile another pool has it
        if connection.usable:
            connection.rest()
            self._idle[connection] = None
        else:
            connection.close()

    def preempt(self) -> None:
        """Gives all exchanges up that have not ended, with a PreemptedError. One that begins meanwhile is not among
        them: call it again.
        """
        for connection in tuple(self._busy):
            connection.preempt()

    def close(self) -> None:
        for connection in tuple(self._idle):
            connection.close()
        self._idle.clear()

    def _take_idle(self, loop: asyncio.AbstractEventLoop) -> Connection | None:
        oldest = loop.time() - IDLE_S
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> Connection:
        limit_s = min(self._connect_timeout_s, timeout_s)
        # no closure: a compiled one would hold the connection, and so itself
        connection = Connection(loop, self._forget)
        protocol = cast("asyncio.Protocol", connection)
        try:
            async with asyncio.timeout(limit_s):
                if self._socket is not None:
                    await loop.create_unix_connection(lambda: protocol, self._socket)
                else:
                    await loop.create_connection(lambda: protocol, self._host, self._port, ssl=self._tls)
        except TimeoutError as exc:
            raise ConnectFailedError(f"no connection in {limit_s:g} s") from exc
        except (OSError, ValueError, UnicodeError) as exc:  # a name that cannot be resolved raises any of these
            raise ConnectFailedError(f"no connection: {exc}") from exc
        return connection
